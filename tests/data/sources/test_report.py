import json

import numpy as np
import pytest

from onediff_jax.data.sources import BadRecord, RawExample, Report, TooManyBadRecords, good_only

GOOD = RawExample("g", "text2image", (np.zeros((16, 16, 3), np.uint8),), ((),))


def test_counts_table_and_json():
    report = Report(max_share=0.5)
    for index in range(7):
        report.add(BadRecord(f"{index}.jpg", "broken_picture", "cut"))
    report.add(BadRecord("t", "bad_text"))
    for _ in range(8):
        report.add(GOOD)
    assert report.counts() == {"broken_picture": 7, "bad_text": 1}
    assert (report.good, report.total, report.share) == (8, 16, 0.5)
    report.check()  # at the limit, not above
    table = report.table(names=5)
    assert "8 good, 8 bad (50.00 %)" in table
    assert "0.jpg (cut)" in table and "and 2 more" in table and "6.jpg" not in table
    again = Report.from_json(json.loads(json.dumps(report.to_json())), max_share=0.5)
    assert again == report
    again.merge(report)
    assert again.total == 32


def test_stops_above_the_share_with_the_table():
    report = Report()
    report.add(BadRecord("x.jpg", "empty_file"))
    for _ in range(98):
        report.add(GOOD)
    with pytest.raises(TooManyBadRecords, match=r"(?s)more than max_share=0.01.*x\.jpg"):
        report.check()
    report.add(GOOD)
    report.check()  # 1 of 100


def test_good_only_stops_early_on_a_stream():
    report = Report(max_share=0.1)
    kept = list(good_only([GOOD, BadRecord("b", "empty_file"), GOOD], report))
    assert kept == [GOOD, GOOD] and report.total == 3

    def endless():
        while True:
            yield BadRecord("b", "empty_file")

    with pytest.raises(TooManyBadRecords, match=r"99\.80 %"):
        list(good_only(endless(), report))
    assert report.total == 1000


def test_share_is_checked():
    with pytest.raises(ValueError, match="max_share"):
        Report(max_share=2)
