"""Responses and metrics against lm-evaluation-harness itself, which loads the exported ticket."""

import json

import numpy as np
import pytest
from harness_tasks import save_tasks
from structured import make
from tiny import save_tiny, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.exporting.formats import export_ticket
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source
from ltpipe.tasks import respond as responding
from ltpipe.tasks.requests import Requests
from ltpipe.tasks.respond import respond
from ltpipe.tasks.results import task_results
from ltpipe.tasks.settings import TaskSettings

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed; make test-peers runs this")

TASKS = ("own_choice", "own_score", "own_rolling", "own_generation")
CPU = ComputeSettings(device="cpu", threads=1)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return str(save_tasks(tmp_path_factory.mktemp("tasks") / "own"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Makes a model, its ticket, and that ticket exported; gives the folder."""
    made = {}

    def study(architecture, begins):
        if (architecture, begins) not in made:
            folder = tmp_path_factory.mktemp(architecture)
            save_tiny(architecture, folder / "source")
            generation = {"eos_token_id": 1, "repetition_penalty": 1.7, "do_sample": True, "temperature": 0.6}
            (folder / "source/generation_config.json").write_text(json.dumps(generation))
            if begins:
                tokenizer = tiny_tokenizer()
                tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
                    single="<bos> $A", special_tokens=[("<bos>", 0)]
                )
                tokenizer.save_pretrained(folder / "source")
            load_checkpoint(Source(str(folder / "source")), None, "auto", folder / "model")
            make(folder / "model", "layer", "0.5", folder / "mask")
            export_ticket("hf", folder / "mask", Checkpoint.open(folder / "model"), folder / "ticket")
            made[architecture, begins] = folder
        return made[architecture, begins]

    return study


def theirs(settings, folder):
    """The harness's results, and its responses in the order of its requests."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from ltpipe.tasks.harness import _loaded

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    loaded = _loaded(settings)
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=1234)
    found = evaluate(lm=model, task_dict=loaded, limit=settings.limit, bootstrap_iters=1000)
    responses = [instance.resps[0] for task in loaded["tasks"].values() for instance in task.instances]
    return found["results"][settings.task], responses


def ours(settings, folder, place, mask="mask"):
    from ltpipe.tasks.harness import make_requests

    checkpoint = Checkpoint.open(folder / "model")
    make_requests(settings, checkpoint).write(place / "requests")
    names = {"model": "m", "task": settings.task}
    found = respond(checkpoint, place / "requests", CPU, names, folder / mask)
    found.write(place / "responses.json")
    return task_results(settings, place / "requests", [place / "responses.json"], names), found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("begins", [False, True], ids=["no-bos", "bos"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma", "opt"])
def test_every_response_and_metric_is_the_harness_s_own(architecture, begins, study, tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(responding, "_ENOUGH", 0)  # several passes over the weights
    folder = study(architecture, begins)
    for name in TASKS:
        settings = TaskSettings(name, folder=tasks, num_fewshot=2 if name == "own_choice" else None)
        if name == "own_rolling":
            with pytest.raises(UserError, match="no metric is a mean over documents"):
                ours(settings, folder, tmp_path)
            continue
        results, responses = theirs(settings, folder / "ticket")
        found, answers = ours(settings, folder, tmp_path)
        if name == "own_generation":
            assert answers.texts == responses
        else:
            expected = np.array([loglikelihood for loglikelihood, _ in responses])
            np.testing.assert_allclose(answers.loglikelihoods, expected, rtol=1e-5, atol=1e-5)
            assert answers.greedy == [greedy for _, greedy in responses]
        for score in found.scores:
            assert score.value == pytest.approx(results[f"{score.metric},{score.filter}"], rel=1e-5)
            stderr = results[f"{score.metric}_stderr,{score.filter}"]
            assert score.stderr == (None if stderr == "N/A" else pytest.approx(stderr, rel=1e-4))
            if score.items is not None:
                assert np.mean(score.items) == pytest.approx(score.value)


@pytest.mark.filterwarnings("ignore")
def test_a_text_of_several_windows(study, tasks, tmp_path, monkeypatch):
    from ltpipe.tasks import harness

    monkeypatch.setattr(harness, "_items", lambda *_: [1.0])
    settings = TaskSettings("own_rolling", folder=tasks)
    folder = study("llama", begins=True)
    results, responses = theirs(settings, folder / "ticket")
    found, answers = ours(settings, folder, tmp_path)
    requests = Requests.read(tmp_path / "requests")
    assert len(requests.lengths) == requests.count + 1, "one text is longer than the model"
    np.testing.assert_allclose(answers.loglikelihoods, responses, rtol=1e-5)
    assert found.scores[0].value == pytest.approx(results["word_perplexity,none"], rel=1e-5)


def test_choices_of_one_token_share_a_row(study, tasks, tmp_path):
    from ltpipe.tasks.harness import make_requests

    folder = study("llama", begins=False)
    make_requests(TaskSettings("own_choice", folder=tasks), Checkpoint.open(folder / "model")).write(tmp_path / "r")
    asked = Requests.read(tmp_path / "r")
    assert len(responding.Rows.of(asked).inputs) == len(asked.lengths) * 3 // 4


def test_every_ticket_is_scored_by_the_same_examples(study, tasks, tmp_path):
    """The harness would draw others for the second: scoring it would be refused."""
    settings = TaskSettings("own_choice", folder=tasks, num_fewshot=2)
    folder = study("llama", begins=False)
    alone, _ = ours(settings, folder, tmp_path)
    names = {"model": "m", "task": "own_choice"}
    respond(Checkpoint.open(folder / "model"), tmp_path / "requests", CPU, names).write(tmp_path / "dense.json")
    files = [tmp_path / "dense.json", tmp_path / "responses.json"]
    together = task_results(settings, tmp_path / "requests", files, names)
    assert together.scores[len(alone.scores) :] == alone.scores


def test_limit_and_chance(study, tasks, tmp_path):
    settings = TaskSettings("own_choice", folder=tasks, limit=5)
    found, _ = ours(settings, study("llama", begins=False), tmp_path)
    assert {(score.documents, score.available, score.chance) for score in found.scores} == {(5, 24, 0.25)}
    assert found.limit == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            TaskSettings("arc_esay"),
            r"'arc_esay' is not a task of .* \(did you mean 'arc_easy'",
        ),
        (TaskSettings("own_choice", folder="nowhere"), "folder: 'nowhere' does not exist"),
    ],
)
def test_refused_in_one_line(settings, message, study, tmp_path):
    with pytest.raises(UserError, match=message):
        ours(settings, study("llama", begins=False), tmp_path)


def test_responses_to_other_requests_are_refused(study, tasks, tmp_path):
    folder = study("llama", begins=False)
    ours(TaskSettings("own_choice", folder=tasks), folder, tmp_path)
    (tmp_path / "fewer").mkdir()
    ours(TaskSettings("own_choice", folder=tasks, limit=3), folder, tmp_path / "fewer")
    with pytest.raises(UserError, match="responses to other requests"):
        task_results(
            TaskSettings("own_choice", folder=tasks), tmp_path / "requests", [tmp_path / "fewer/responses.json"],
            {"model": "m", "task": "t"},
        )  # fmt: skip
    with pytest.raises(UserError, match="asks something else than when the requests were made"):
        task_results(
            TaskSettings("own_choice", folder=tasks, num_fewshot=1), tmp_path / "requests",
            [tmp_path / "responses.json"], {"model": "m", "task": "t"},
        )  # fmt: skip
