"""Half a minute of mutated files of every kind; `python tests/fuzz.py` is the long version for developers."""

import fuzz

MAX_SECONDS = 25


def test_mutated_files_end_in_user_errors_only():
    counts, failures = fuzz.run(cases=400, seed=0, max_seconds=MAX_SECONDS)
    assert min(counts.values()) > 0
    assert not failures, "\n".join(failures)
