"""The names that a TD probe's signals and figures have in tables and pictures."""

from __future__ import annotations

SIGNALS = {
    "td": "TD, V(s') - V(s)",
    "value": "V(s')",
    "abs_value": "|V(s')|",
    "mean_value": "v_bar(s')",
    "probability": "probability's change",
    "policy": "log pi of the token",
}
TD_COLUMNS = {
    "auc": "AUC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "corrected": "true",
    "within": "in state",
    "within_corrected": "true",
    "agreement": "tau-b",
}
TD_NOTE = (
    "AUC, Pearson and Spearman are against single rollouts' outcomes; true: Pearson with the branch's true value, rollout noise "
    "taken out; in state: of deviations from the state's mean; tau-b: within states."
)
