"""What crosses between client and worker: keys, calls, functions, outcomes, statuses, failures, digests.

Each module owns one message. No other code builds or reads these dicts. JSON keys are PyWren 0.4's; new keys are
optional. Decoding any bytes returns a value or raises ``DecodeError``; it never unpickles anything.
"""
