"""Objects that every process has, such as random generators, are the worker's own on the worker."""

from __future__ import annotations

import random
import secrets
from random import gauss, randint
from random import random as draw_one
from secrets import choice, token_hex

import executors
import numpy as np
import pytest
from numpy.random import normal, permutation, rand

import pywren
from pywren.pickling.packed import dumps, loads

CALLS = 6
MAPS = 3


class System(random.SystemRandom):
    pass


class Sampler:
    """A class that holds a function of numpy's, its generator, and a function of ``random``."""

    def __init__(self):
        self.normal = normal
        self.generator = np.random.mtrand._rand
        self.uniform = random.uniform

    def draw(self):
        return float(self.normal()), float(self.generator.rand()), self.uniform(0, 1)


def _holding(held, draw):
    return lambda _: draw(held)


DRAWS = {
    "random.random": _holding(draw_one, lambda held: held()),
    "random.randint": _holding(randint, lambda held: held(0, 2**60)),
    "random.gauss": _holding(gauss, lambda held: held(0, 1)),
    "random._inst": _holding(random._inst, lambda held: held.random()),
    "random": lambda _: random.random(),
    "numpy.random.rand": _holding(rand, lambda held: float(held())),
    "numpy.random.permutation": _holding(permutation, lambda held: tuple(held(30))),
    "numpy.random": lambda _: float(np.random.rand()),
    "an object with such functions": _holding(Sampler(), Sampler.draw),
    "secrets.choice": _holding(choice, lambda held: held(range(2**60))),
    "secrets.randbits": _holding(secrets.randbits, lambda held: held(60)),
    "secrets.token_hex": _holding(token_hex, lambda held: held(8)),
    "SystemRandom": _holding(random.SystemRandom(), lambda held: held.random()),
    "a class derived from it": _holding(System(), lambda held: held.random()),
    "default_rng() in the call": lambda _: float(np.random.default_rng().random()),
}


def draw_all(number):
    """Draw a number with each function."""
    return {what: draw(number) for what, draw in DRAWS.items()}


@pytest.fixture(scope="module", params=["local", "dummy"])
def ready(request, tmp_path_factory):
    """Return workers that persist between calls, and workers that are forked from one process."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


def test_as_many_numbers_as_calls(ready):
    """Every call draws its own numbers, however the client got the function and whatever it seeded."""
    drawn = {what: [] for what in DRAWS}
    for _ in range(MAPS):
        random.seed(3)
        np.random.seed(3)
        for call in pywren.get_all_results(ready.map(draw_all, range(CALLS))):
            for what, number in call.items():
                drawn[what].append(number)
    assert {what: len(set(numbers)) for what, numbers in drawn.items()} == dict.fromkeys(DRAWS, MAPS * CALLS)


def test_a_function_of_numpy_is_mapped_itself(ready):
    """``map(numpy.random.uniform, …)`` draws one number per call."""
    assert len(set(pywren.get_all_results(ready.map(np.random.uniform, [0.0] * CALLS)))) == CALLS


def test_a_seed_in_the_call_holds(ready):
    """A call that sets a seed draws the same numbers wherever it runs."""

    def seeded(seed):
        np.random.seed(seed)
        random.seed(seed)
        return float(rand()), draw_one()

    first, again = (pywren.get_all_results(ready.map(seeded, range(CALLS))) for _ in range(2))
    assert first == again
    assert len(set(first)) == CALLS


def test_the_recipe_of_the_documentation(ready):
    """One spawned seed per call gives independent numbers, which are the same in every run."""

    def simulate(seed):
        return float(np.random.default_rng(seed).random())

    first, again = (
        pywren.get_all_results(ready.map(simulate, np.random.SeedSequence(7).spawn(CALLS))) for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == CALLS


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState, random.Random])
def test_a_generator_of_the_users_is_copied(make):
    """A generator that the user made and seeded arrives in its current state."""
    mine = make(5)
    copy = loads(dumps(mine))
    assert copy is not mine
    assert copy.random() == mine.random()
