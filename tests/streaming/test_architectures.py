"""The table of architectures."""

from benchmarks.architectures import judge_class, page


def test_a_class_is_judged_on_the_way_that_a_user_goes(tmp_path):
    row = judge_class("llama", "LlamaForCausalLM", tmp_path)
    assert (row.verdict, row.reason) == ("equal", "")
    assert row.difference < 1e-5
    assert str(row) in page([row])
