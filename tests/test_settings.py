import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, help_text, unknown_variables, variable


def test_the_defaults_hold_where_nothing_is_set_or_what_is_set_is_empty():
    assert Settings.from_env({}) == Settings() == Settings.from_env({"NAMETAG_PORT": " ", "PORT": "1"})


def test_a_value_is_read_as_its_kind():
    settings = Settings.from_env(
        {
            "NAMETAG_PORT": "8123",
            "NAMETAG_MODEL": os.pathsep.join(("a", "/b/c")),
            "NAMETAG_GRACE_S": "2.5",
            "NAMETAG_DEVICE": "cpu",
        }
    )
    assert (settings.port, settings.grace_s, settings.device) == (8123, 2.5, "cpu")
    assert settings.model == (Path("a"), Path("/b/c"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("NAMETAG_PORT", "8o00", "a whole number, at least 0 and at most 65535"),
        ("NAMETAG_PORT", "65536", "at most 65535"),
        ("NAMETAG_WORKERS", "-1", "at least 0"),
        ("NAMETAG_DEVICE", "gpu", "one of auto, cpu, cuda"),
        ("NAMETAG_REQUEST_TIMEOUT_S", "nan", "seconds"),
        ("NAMETAG_REQUEST_TIMEOUT_S", "-1", "seconds"),
        ("NAMETAG_GRACE_S", "inf", "seconds, 0 or more"),
        ("NAMETAG_MODEL", os.pathsep, "model folders"),
        ("NAMETAG_LOG_LEVEL", "loud", "one of debug, info, warning, error"),
    ],
)
def test_a_wrong_value_names_the_variable_the_value_and_what_was_expected(name, value, expected):
    with pytest.raises(
        SettingsError, match=re.escape(f"{name} is {value!r}: ") + ".*" + re.escape(expected)
    ):
        Settings.from_env({name: value})


def test_limits_that_contradict_each_other_are_refused():
    with pytest.raises(
        SettingsError, match="NAMETAG_MAX_QUEUE_TOKENS is 5: at least NAMETAG_MAX_REQUEST_TOKENS"
    ):
        Settings.from_env({"NAMETAG_MAX_QUEUE_TOKENS": "5"})


def test_the_help_tells_every_setting_its_default_and_its_meaning():
    told = help_text()
    for each in fields(Settings):
        assert variable(each.name) in told
        assert each.metadata["meaning"] in told
    assert "(default: 8000)" in told
    assert "(default: artefacts/en-person beside this package)" in told


def test_a_misspelt_variable_is_noticed():
    assert unknown_variables({"NAMETAG_PROT": "1", "NAMETAG_PORT": "1", "OTHER": ""}) == ["NAMETAG_PROT"]
