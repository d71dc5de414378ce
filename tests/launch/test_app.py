"""What every launcher does before anything else."""

import importlib
import os

from launch import app


def test_a_users_own_flags_of_xla_come_last_and_win(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_the_user=1")
    importlib.reload(app)
    assert os.environ["XLA_FLAGS"] == f"{getattr(app, 'NO_YNN', '')} --xla_of_the_user=1".strip()
