"""The parts of check_hazards: an abstract machine for planned and for lowered programs.

It shares nothing with the planner.

numbers      index arithmetic on integers and on one integer a thread
slicing      which ops decide control flow, slots and phases: the only scalars that are computed
cases        sizes of the arguments that give the loops the trip counts of interest
threads      sets of threads of a role
walking      execution of one role's program as a coroutine
plan_rules   what a plan must obey on its face
plan_run     the marked graph of its channels, executed
records      accesses to shared memory, and what orders them
mbarriers    phases, arrivals, bytes
machine      lowered programs, executed
"""
