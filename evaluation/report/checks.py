"""The part of the report on the checks that catch a void comparison."""

from evaluation.report.page import Html, el, html_table, listed
from evaluation.study import void_checks
from evaluation.study.evidence import Evidence
from evaluation.study.wording import sentence


def checks(evidence: Evidence) -> list[Html | None]:
    """What was looked for, how far networks agree against the labels, and what could not be checked."""
    results, comparisons = evidence.results, [finding.comparison for finding in evidence.findings]
    header, rows = void_checks.agreement_table(results, comparisons)
    caption = "How two compared arms err together, last.pt on val, in percent"
    return [
        *(el("p", line) for line in void_checks.checks_in_words(results, comparisons)),
        html_table(caption, header, rows, text=("with", "most of these")) if rows else None,
        listed(map(sentence, void_checks.not_recorded(results, comparisons)), class_="notes"),
    ]
