"""The model of parameter_sweep.py: a module of the user's own beside the program."""


class InfeasibleError(Exception):
    def __init__(self, param):
        Exception.__init__(self, "{} is below zero".format(param))
        self.param = param


class Model(object):
    def __init__(self, scale=1):
        self.scale = scale

    def loss(self, param):
        if param < 0:
            raise InfeasibleError(param)
        return self.scale * (param - 4) ** 2
