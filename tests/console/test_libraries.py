import logging

from tdro_lightning.console.libraries import quiet_libraries


def test_the_load_report_is_silent_and_other_warnings_are_not() -> None:
    quiet_libraries()
    loading = logging.getLogger("transformers.modeling_utils")
    shown = [
        loading.filter(loading.makeRecord(loading.name, logging.WARNING, "", 0, text, (), None))
        for text in ("\x1b[1mBertModel LOAD REPORT\x1b[0m from: model", "another warning")
    ]
    assert [bool(record) for record in shown] == [False, True]
