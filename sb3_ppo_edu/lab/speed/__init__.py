"""
The speed experiment: how much faster PPO trains with EduPPO than with others, and where the time goes.

- ``cases``: what is measured
- ``suite``: in which order, each measurement in a fresh process, whose start is ``child``
- ``runs``, ``floor``, ``grid``: what happens in that process, for whole trainings, their floor, and single updates
- ``rows``: what was measured, as CSV files keep it
- ``numbers``, ``plots``, ``report``: what the rows come to, drawn and written
"""
