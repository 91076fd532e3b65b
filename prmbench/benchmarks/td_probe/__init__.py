"""The TD probe: one-step TD of candidate tokens against Monte Carlo returns (Section 4.3.3)."""
