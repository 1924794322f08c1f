"""AWS on one machine: real S3, moto's services, and Lambda that executes the deployed zip under Lambda's rules.

``mock_aws`` is for unit tests; this is the dress rehearsal: processes of their own, the official runtime client,
time-outs, memory limits, throttling and faults. Needs ``pip install 'pywren[emulator]'``.
"""

from pywren.testing.emulator._counters import Counters, Execution
from pywren.testing.emulator._emulator import Emulator, emulate
from pywren.testing.emulator._faults import Fault, Faults
from pywren.testing.emulator._settings import Limits, Settings

__all__ = ["Counters", "Emulator", "Execution", "Fault", "Faults", "Limits", "Settings", "emulate"]
