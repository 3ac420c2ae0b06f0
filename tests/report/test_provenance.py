"""Provenance says what made the numbers, and nobody's name."""

import getpass
import json
import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradscope.report import provenance
from gradscope.report import provenance as function
from gradscope.report.provenance import commit, plain


def test_it_names_versions_settings_seeds_and_data():
    data = SimpleNamespace(name="digits", sha256="ab12")
    record = provenance(
        {"preset": "quick", "rates": (0.1, 0.2)}, seeds=range(3), data=data, durations={"fit": 1.5}
    )
    assert record["seeds"] == [0, 1, 2] and record["configuration"]["rates"] == [0.1, 0.2]
    assert record["data"] == {"name": "digits", "sha256": "ab12"}
    assert record["versions"]["python"] == platform.python_version()
    assert set(record["versions"]) >= {"torch", "numpy", "scipy", "pandas"}
    assert record["threads"] >= 1 and record["dtype"] == "float32" and record["durations_s"] == {"fit": 1.5}
    json.dumps(record, allow_nan=False)


def test_no_name_of_user_host_or_folder_is_told():
    home = Path.home()
    record = function(
        {
            "out": home / "secret" / "reports",
            "note": f"written to {home}/secret/reports, from --data=/srv/users/anna/cifar",
            "windows": "C:\\Users\\anna\\cifar",
            "link": "https://arxiv.org/abs/1702.08591",
            "half": "1/2 of 3/4",
        },
        seeds=[0],
    )
    told = record["configuration"]
    assert told["out"] == "reports" and told["windows"] == "cifar"
    assert told["link"] == "https://arxiv.org/abs/1702.08591" and told["half"] == "1/2 of 3/4"
    assert "anna" not in json.dumps(record) and "secret" not in told["out"] and str(home) not in told["note"]
    assert platform.node() not in json.dumps({**record, "platform": ""}) or len(platform.node()) < 4
    if getpass.getuser() != "root":
        assert getpass.getuser() not in json.dumps(told)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ({1: {2}}, {"1": [2]}),
        (dict, "dict"),
        (None, None),
        (True, True),
    ],
)
def test_values_become_json(value, kept):
    assert plain(value) == kept


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path):
    assert commit(tmp_path) is None


def test_a_checkout_says_its_commit_and_whether_it_was_changed(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    assert commit(tmp_path)["dirty"] is False and len(commit(tmp_path)["id"]) == 40
    (tmp_path / "new.py").write_text("")
    assert commit(tmp_path)["dirty"] is True


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert commit(tmp_path) is None
