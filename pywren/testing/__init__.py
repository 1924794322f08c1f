"""A mocked AWS for testing programs that use pywren: no account, no network, but real worker processes.

::

    @pytest.fixture
    def aws():
        with pywren.testing.mock_aws() as config:
            yield config

    def test_my_pipeline(aws):
        pwex = pywren.default_executor(config=aws)
        assert pywren.get_all_results(pwex.map(my_function, [1, 2, 3])) == [2, 3, 4]

Needs ``pip install pywren[testing]``.
"""

from pywren.testing._mock_aws import mock_aws

__all__ = ["mock_aws"]
