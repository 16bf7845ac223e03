from ltpipe.pruning.sparsity import Sparsity
from ltpipe.workflow.grid import MASK, TICKET, masks, models, perturbed, tickets

CONFIG = {
    "models": {"m": {}},
    "data": {"b": {}, "a": {}},
    "grid": {
        "criteria": ["random", "magnitude"],
        "scopes": ["layer"],
        "sparsities": [0.5, 0.10, 1e-05],
        "seeds": [7, 1],
    },
    "evaluate": {"data": None, "settings": {}},
    "score": {"data": None, "hybrids": {}, "settings": {}},
    "recover": {},
}


def test_one_sparsity_has_one_name():
    written = [0.5, 0.50, 1, 1.0, 0, 0.0, 0.1, 1e-05, 0.125, 0.99999]
    assert [Sparsity.of(value).canonical for value in written] == [
        *("0.5", "0.5", "1", "1", "0", "0", "0.1", "0.00001", "0.125", "0.99999")
    ]


def test_every_combination_once_and_deterministic_criteria_without_seed():
    cells = tickets(CONFIG)
    assert len(cells) == len(set(cells)) == 2 * 3 * (2 + 1)
    assert {cell.seed for cell in cells if cell.criterion == "magnitude"} == {"none"}
    assert {cell.seed for cell in cells if cell.criterion == "random"} == {"1", "7"}
    assert {cell.data for cell in cells} == {"a", "b"}


def test_order_of_the_lists_does_not_matter():
    turned = {**CONFIG, "grid": {axis: values[::-1] for axis, values in CONFIG["grid"].items()}}
    assert tickets(turned) == tickets(CONFIG)


def test_names():
    cell = tickets(CONFIG)[0]
    assert cell.named(MASK) == "results/masks/m/magnitude/layer/seed-none/0.00001.safetensors"
    assert cell.named(TICKET) == "results/tickets/m/a/magnitude/layer/seed-none/0.00001.json"


def test_a_scope_with_a_sparsity_of_its_own_gives_one_ticket():
    config = {**CONFIG, "grid": {**CONFIG["grid"], "criteria": ["magnitude"], "scopes": ["layer", "2of4", "2of3"]}}
    cells = tickets(config)
    assert len(cells) == len(set(cells)) == 2 * (3 + 1 + 1)
    assert {cell.sparsity for cell in cells if cell.scope == "2of4"} == {"0.5"}
    assert {cell.sparsity for cell in cells if cell.scope == "2of3"} == {"0.3333333333333333"}


def test_perturbed_models_are_those_of_the_grid_and_the_dense_one():
    config = CONFIG | {"robustness": {"perturbations": ["noise-0.1", "int4"], "seeds": [2, 0]}}
    names = perturbed(config, "m")
    assert len(names) == len(set(names)) == (2 + len(tickets(config))) * 3
    assert names[0] == "results/robustness/m/a/int4/seed-none/dense.json"
    where = "results/robustness/m/a/noise-0.1/seed-2"
    assert {f"{where}/dense.json", f"{where}/magnitude/layer/seed-none/0.5.json"} < set(names)
    assert perturbed(CONFIG | {"robustness": {"perturbations": [], "seeds": [0]}}, "m") == []


def test_masks_of_a_model_once_for_all_texts():
    two = {**CONFIG, "models": {"n": {}, "m": {}}}
    assert tickets(two) == [*tickets(two, "m"), *tickets(two, "n")]
    assert masks(tickets(two)) == [*masks(tickets(two, "m")), *masks(tickets(two, "n"))]
    assert len(masks(tickets(two, "n"))) == 3 * (2 + 1)
    assert models(two, "{model}.csv") == ["m.csv", "n.csv"]


def test_a_recovery_adds_the_tickets_that_it_trains_and_one_dense_model():
    lora = {"data": "t", "criteria": ["magnitude"], "scopes": None, "sparsities": [0.5], "control": True}
    config = CONFIG | {"data": {"b": {}, "a": {}, "t": {}}, "recover": {"lora": lora}}
    added = set(tickets(config)) - set(tickets(CONFIG))
    assert {ticket.data for ticket in added} == {"a", "b"}, "what is trained on is not evaluated"
    cells = {(ticket.criterion, ticket.scope, ticket.seed, ticket.sparsity) for ticket in added}
    assert cells == {("magnitude+lora", "layer", "none", "0.5"), ("magnitude+lora", "layer", "none", "0")}
    assert masks(tickets(config)) == masks(tickets(CONFIG))
    without = {**config, "recover": {"lora": {**lora, "control": False, "sparsities": [0.25]}}}
    assert tickets(without) == tickets(CONFIG)
    everything = {"data": "t", "criteria": None, "scopes": None, "sparsities": None, "control": False}
    assert len(tickets({**config, "recover": {"one": everything, "two": everything}})) == 3 * len(tickets(CONFIG))
    (ticket,) = [each for each in added if each.sparsity == "0.5" and each.data == "a"]
    assert ticket.pruned in tickets(CONFIG)
    assert ticket.named(MASK) != ticket.pruned.named(MASK) == MASK.format(**{**vars(ticket), "criterion": "magnitude"})
