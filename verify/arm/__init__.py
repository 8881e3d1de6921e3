"""Do artifacts give the same answers on a phone's processor? Their own runtimes answer on an emulated 64-bit ARM.

emulation.py   starts the emulated Python, and makes a runtime of each artifact in it
child.py       what runs there: this project's own code, with the runtimes' builds for ARM
proof.py       asks the gate's questions on both sides, judges by the gate's rules, and writes `arm.json`

`bootstrap arm` makes the emulated system, in .venv/arm. Emulation says nothing of time, so no time is kept.
"""
