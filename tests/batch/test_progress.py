from consisid_pack.consisid_core.batch.progress import duration, progress


def test_the_bar_says_speed_rest_and_failures(capsys):
    with progress(3, "videos") as bar:
        bar.begin()
        bar.ended()
        bar.ended("refused")
        bar.say("anna: no face")
        bar.ended("refused")
    said = capsys.readouterr().err
    assert "3/3 videos" in said and "an hour, 0 s left, 2 refused" in said and "anna: no face" in said


def test_durations():
    said = [duration(seconds) for seconds in (40, 300, 12000, 1_486_000)]
    assert said == ["40 s", "5 min", "3 h 20 min", "17.2 days"]
