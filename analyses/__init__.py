"""One question per script: the papers' figures and tables, each ending in verdicts.

In a checkout they run as `python -m analyses.shattering`; the wheel carries them as `gradscope.analyses`.
"""
