"""Every row of tests/claims/defects.py: wrong in DDPMScheduler, right in ours, documented as measured."""

import pytest
from diffusers import DDPMScheduler

import defects
from common import ROOT
from ddpm_from_scratch import DDPMFromScratchScheduler

pytestmark = pytest.mark.filterwarnings("ignore")  # the rows count warnings themselves


@pytest.mark.parametrize(("title", "function"), defects.ROWS, ids=[f.__name__ for _, f in defects.ROWS])
def test_stock_is_wrong_and_ours_is_right(title, function):
    stock_text, stock_is_right = defects.outcome(function, DDPMScheduler)
    text, is_right = defects.outcome(function, DDPMFromScratchScheduler)
    assert not stock_is_right, f"stock became right: {stock_text}"
    assert is_right, text


def test_there_are_20_rows():
    assert len(defects.ROWS) == 20


def test_the_page_has_the_printed_table():
    assert defects.markdown() in (ROOT / "docs" / "differences.md").read_text()
