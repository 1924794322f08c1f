"""The driver of a callset: it owns every call from its submission to its last result.

::

    submit ──▶ CallsetRecord ──▶ next_calls ──▶ Driver: invoke ──▶ Lambda, a queue, the pool of this machine
                    ▲  (what is known)                                   │
                    │                                                    ▼
               Observation ◀── poll of the storage, or the pool ◀── statuses, beacons, records, results
                    │
                    └──▶ decide ──▶ invoke again · end with an error · nothing

================= ====================================================================================================
module            purpose
================= ====================================================================================================
calls             what is known about one call and its attempts: plain data
service           what the callsets of one function or queue share: pace, concurrency, starts, and the lock
record            what is known about the calls of one callset: plain data, and the counts that readers show
policy            what the user and the service allow: retries, caps, patience
retrying          after an attempt has ended without a value: another one, and when? (pure)
pace              how fast to invoke (pure)
capacity          how many calls to have in flight (pure)
chunks            how many calls the next invocation runs, and for how long (pure)
budget            what calls have cost, will cost, and may cost (pure)
suspicion         which calls were dropped, and whose workers have vanished (pure)
stragglers        which calls get a second attempt because they take much longer than the others (pure)
driver            applies the decisions, for the threads that invoke calls and look for outcomes
================= ====================================================================================================

The pure modules take the record, or what its service knows, and a time, and return decisions. They send nothing, change
nothing but what they are given, and read no clock.
"""
