"""The studies: the paper's tables and claims, run in the miniature.

`settings` names every reward model and policy, `lab` makes one seed's data and models, `measure_*` measure them, `runs` keeps
what was measured, `figures` takes one number out of it, `paper_tables` and `paper_claims` say which numbers the paper compares,
and `replicate` and `study_pages` write pages of them.
"""
