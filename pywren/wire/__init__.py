"""What is sent between client and worker: keys, calls, functions, outcomes, statuses, failures, digests.

Each module owns one kind of message. No other code builds or reads its dicts. JSON keys are those of PyWren 0.4; new
keys are optional. Decoding any bytes returns a value or raises ``DecodeError``; it never unpickles anything.
"""
