"""A cell, for a process that reads a stranger's bytes: no network, no privileges, and a view of few files.

host.py        starts a process in a cell, and says which parts of a cell this system gives
enter.py       the program that builds the cell around itself, then becomes the process
view.py        the cell's files: a root of its own in a mount namespace
landlock.py    the same files where there are no mount namespaces: rules of the kernel's Landlock
groups.py      the most memory of all that runs in it: a control group, where one can be made
calls.py       the system calls that the process may not make: a seccomp filter
frames.py      how a process in a cell and its caller speak
tensors.py     tensors between the two: in memory that both have, as far as they fit
sandbox.py     a cell for children that read one file or model: with limits of memory, time, disk and processes
harvest.py     what comes out of it: regular files alone
kernel.py      the kernel's calls that Python's standard library does not have
"""
