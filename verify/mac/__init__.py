"""Do Core ML's artifacts give the same answers on a Mac? Nothing else runs them.

proof.py          leaves the gate's questions beside an artifact, and judges what a Mac answered by the gate's rules
prove_on_mac.py   the script that asks them there: it is copied beside the artifact, and needs nothing of this project
"""
