import pytest

from ddpm_from_scratch.runtime.privacy import without_folders


@pytest.mark.parametrize("outside", ["/home/me/photos", "~/photos", "../photos", "file:///home/me/photos"])
def test_of_a_path_that_leads_outside_the_last_name_is_left(outside):
    assert without_folders(outside) == "photos"


@pytest.mark.parametrize("inside", ["runs/digits", "user/name", 3, None, ["/home/me"]])
def test_other_settings_stay(inside):
    assert without_folders(inside) == inside
