from consisid_pack.consisid_core.batch.cost import cost_lines


def test_the_papers_test_on_one_h100_takes_seventeen_days():
    first, second = cost_lines(13500, None, [], 2.5)
    assert first.startswith("13,500 to make x 110 s (published for one H100") and first.endswith("412.5 GPU hours.")
    assert "17.2 days on 1, 4.3 days on 4" in second and second.endswith("At 2.5 an hour it costs 1,031.25.")


def test_a_video_of_several_gpus_costs_all_of_them():
    first, second = cost_lines(60, 60, [], 3, gpus_each=2)
    assert first == "60 to make x 60 s x 2 GPUs (as given) = 2.0 GPU hours." and second.endswith("it costs 6.00.")
    assert next(cost_lines(36, None, [], None, gpus_each=2)).endswith(" = 1.1 GPU hours."), "published for one"


def test_what_was_measured_here_counts_more_and_what_the_user_says_most():
    assert "x 20 s (the median of 3 made here)" in next(cost_lines(10, None, [10, 20, 90], None))
    assert "x 5 s (as given)" in next(cost_lines(10, 5, [10], None))
    assert not list(cost_lines(0, None, [], None))
