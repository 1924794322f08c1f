"""AWS on one machine: real S3, moto's services, and Lambda that executes the deployed zip under Lambda's rules.

Use ``mock_aws`` for unit tests, and the emulator for a dress rehearsal of a whole job: functions run in separate
processes under the official runtime client, with time-outs, memory limits, throttling and faults. Needs
``pip install 'pywren[emulator]'``.
"""

from pywren.testing.emulator._counters import Counters, Execution
from pywren.testing.emulator._emulator import Emulator, emulate
from pywren.testing.emulator._faults import Fault, Faults
from pywren.testing.emulator._settings import Limits, Settings

__all__ = ["Counters", "Emulator", "Execution", "Fault", "Faults", "Limits", "Settings", "emulate"]
