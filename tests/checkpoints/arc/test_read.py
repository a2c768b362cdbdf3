"""Run directories are made from the small ones of `tests/parity/fixtures`, changed in one place each."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from state_engine.checkpoints.arc.read import convert, read_arc
from state_engine.checkpoints.load import card_of, load_model
from state_engine.checkpoints.recognise import what_is
from state_engine.checkpoints.store import read_card
from state_engine.errors import CheckpointError, UnsafePickleError

FIXTURES = Path(__file__).resolve().parents[2] / "parity" / "fixtures"


class Run:
    """A copy of a fixture that can be changed."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
        shutil.copytree(FIXTURES / name, self.folder)
        self.checkpoint = self.folder / "checkpoints" / "final.ckpt"

    def change(self, hyper=None, weights=None, drop=(), drop_hyper=()):
        loaded = torch.load(self.checkpoint, weights_only=True)
        loaded["hyper_parameters"].update(hyper or {})
        for name in drop_hyper:
            loaded["hyper_parameters"].pop(name)
        loaded["state_dict"].update(weights or {})
        for name in drop:
            del loaded["state_dict"][name]
        torch.save(loaded, self.checkpoint)
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.checkpoint, weights_only=True)["state_dict"]

    def backbone(self, **changes) -> dict:
        kwargs = torch.load(self.checkpoint, weights_only=True)["hyper_parameters"]["transformer_backbone_kwargs"]
        return {"transformer_backbone_kwargs": {**kwargs, **changes}}


@pytest.fixture()
def run(tmp_path):
    return lambda name="state_sm": Run(tmp_path, name)


def read_notes(run: Run) -> str:
    return " ".join(read_arc(run.folder)[0].notes)


def test_card_of_a_run_directory(run):
    card, weights, features = read_arc(run("state_sm").folder)
    assert (card.name, card.input_key, card.scale, card.control) == ("state_sm", "X_hvg", "log1p", "non-targeting")
    assert (card.perturbation_key, card.context_key, card.batch_key) == ("gene", "cell_type", "gem_group")
    assert card.perturbations == ("non-targeting", "GENE0", "GENE1", "GENE2")
    assert (card.perturbation_encoding, features) == ("one-hot", None)
    assert card.batches == ("b0", "b1", "b2", "b3")
    assert card.contexts == ("jurkat", "k562", "rpe1")
    assert card.input_genes == card.output_genes == tuple(f"G{i}" for i in range(20))
    assert (card.attention, card.set_size) == ("full", 6)
    assert card.attention_source.startswith("Declared") and card.attention_origin == "declared"
    assert card.source == "arc-state run directory state_sm"
    assert len(card.weights_hash) == 64
    assert card.id == card.weights_hash[:12]
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert "embed_tokens" in " ".join(card.notes)


def test_attention_of_every_kind_of_checkpoint(run):
    assert read_arc(run("causal").folder)[0].attention == "causal-rotary"
    card = read_arc(run("no_key").folder)[0]
    assert card.attention == "full"
    assert card.attention_source.startswith("Assumed: the checkpoint does not declare bidirectional_attention")
    assert card.attention_origin == "assumed"
    for mode in ("full", "causal", "causal-rotary"):
        assert load_model(FIXTURES / "no_key", attention=mode).card.attention == mode


def test_features_keep_the_order_of_their_labels(run):
    made = run("features")
    vectors = torch.load(made.folder / "pert_onehot_map.pt", weights_only=True)
    card, _, features = read_arc(made.folder)
    assert card.perturbation_encoding == "features"
    assert all(torch.equal(features[i], vectors[label]) for i, label in enumerate(card.perturbations))


def test_one_hot_labels_are_in_the_order_of_their_index(run):
    made = run()
    names = ["IFNB1", "non-targeting", "[('DMSO_TF', 0.0, 'uM')]", "TNF"]
    order = [2, 0, 3, 1]
    torch.save({np.str_(name): torch.eye(4)[i] for name, i in zip(names, order, strict=True)}, made.folder / "pert_onehot_map.pt")
    card = read_arc(made.folder)[0]
    assert card.perturbations == ("non-targeting", "TNF", "IFNB1", "[('DMSO_TF', 0.0, 'uM')]")
    assert {type(label) for label in card.perturbations} == {str}


def test_a_one_hot_map_with_holes_is_kept_as_vectors(run):
    made = run()
    torch.save({"non-targeting": torch.eye(4)[3], "A": torch.eye(4)[0]}, made.folder / "pert_onehot_map.pt")
    card, _, features = read_arc(made.folder)
    assert (card.perturbations, card.perturbation_encoding) == (("non-targeting", "A"), "features")
    assert features.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("ending", [".torch", ".pt", ".pkl"])
def test_batch_maps_under_all_their_names(run, ending):
    made = run("batch_encoder")
    (made.folder / "batch_onehot_map.torch").unlink()
    labels = {f"plate{i}": np.eye(4, dtype=np.float32)[3 - i] for i in range(4)}
    path = made.folder / f"batch_onehot_map{ending}"
    if ending == ".pkl":
        path.write_bytes(pickle.dumps(labels))
    else:
        torch.save({label: torch.from_numpy(vector.copy()) for label, vector in labels.items()}, path)
    assert read_arc(made.folder)[0].batches == ("plate3", "plate2", "plate1", "plate0")


def test_numpy_scalars_in_the_pickles(run):
    made = run()
    dims = {"input_dim": np.int64(20), "gene_names": np.array([f"N{i}" for i in range(20)], dtype=object)}
    (made.folder / "var_dims.pkl").write_bytes(pickle.dumps(dims))
    made.change({"gene_names": None, "input_dim": np.int64(20), "dropout": np.float64(0.2)})
    card = read_arc(made.folder)[0]
    assert card.input_genes == tuple(f"N{i}" for i in range(20))
    assert (type(card.config.input_dim), card.config.dropout) == (int, 0.2)


def test_gene_names_of_another_length_are_not_used(run):
    made = run().change({"gene_names": [f"ALL{i}" for i in range(62_710)]})
    (made.folder / "var_dims.pkl").unlink()
    card = read_arc(made.folder)[0]
    assert card.input_genes is None
    assert "62,710 gene names for 20 input features, so they were not used" in " ".join(card.notes)


def test_embedding_models_name_the_genes_they_decode(run):
    card = read_arc(run("embedding_decoder").folder)[0]
    assert (card.input_key, card.input_genes, card.scale) == ("X_state", None, None)
    assert len(card.output_genes) == 20
    assert read_arc(run("embedding_only").folder)[0].output_genes is None


def test_lora_is_merged_and_said(run):
    made = run("lora")
    card, weights, _ = read_arc(made.folder)
    assert "LoRA adapters of rank 4 were merged into the weights." in card.notes
    theirs = made.weights()
    stem = "transformer_backbone.base_model.model.layers.0.self_attn.q_proj."
    change = theirs[stem + "lora_B.default.weight"] @ theirs[stem + "lora_A.default.weight"]
    merged = theirs[stem + "base_layer.weight"] + 8 / 4 * change
    assert torch.allclose(weights["backbone.layers.0.attention.qkv.weight"][:16], merged, atol=1e-6)


def test_lora_without_its_partner_or_declaration_is_refused(run):
    made = run("lora")
    name = "transformer_backbone.base_model.model.layers.0.self_attn.q_proj.lora_B.default.weight"
    kept = made.weights()[name]
    with pytest.raises(CheckpointError, match="adapters"):
        read_arc(made.change(drop=[name]).folder)
    with pytest.raises(CheckpointError, match="do not declare"):
        read_arc(made.change({"lora": {"enable": False}}, {name: kept}).folder)


def test_gpt2_run_directory(run):
    """arc-state cannot write one any more, so the backbone of a llama run is replaced by transformers' weights."""
    made = run()
    with np.load(FIXTURES / "gpt2.npz") as stored:
        gpt2 = {f"transformer_backbone.{n[7:]}": torch.from_numpy(stored[n]) for n in stored if n.startswith("weight:")}
    old = [name for name in made.weights() if name.startswith("transformer_backbone.")]
    kwargs = {
        "n_embd": 16,
        "hidden_size": 16,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 6,
        "resid_pdrop": 0.0,
        "use_cache": False,
    }
    made.change({"transformer_backbone_key": "GPT2", "transformer_backbone_kwargs": kwargs}, gpt2, drop=old)
    model = load_model(made.folder)
    assert (model.card.config.backbone.kind, model.card.config.backbone.intermediate) == ("gpt2", 64)
    assert model.card.attention == "full"
    assert "wpe" in " ".join(model.card.notes)
    stored = gpt2["transformer_backbone.h.1.mlp.c_fc.weight"]
    assert torch.equal(model.module.backbone.layers[1].feed.up.weight, stored.T)
    out = model.module(torch.rand(2, 5, 20), torch.eye(4)[:2], attention="full")
    assert out.predicted.shape == (2, 5, 20)
    assert torch.isfinite(out.predicted).all()


def test_strict_about_weights(run):
    made = run()
    with pytest.raises(CheckpointError, match=r"1 missing: project_out\.3\.bias"):
        read_arc(made.change(drop=["project_out.3.bias"]).folder)
    made.change(weights={"project_out.3.bias": torch.zeros(16), "gating.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"1 unexpected: gating\.weight"):
        read_arc(made.folder)


def test_hyper_parameters_decide_and_weights_that_disagree_are_an_error(run):
    with pytest.raises(CheckpointError, match=r"missing|another shape"):
        read_arc(run().change({"n_encoder_layers": 5}).folder)


def test_layer_counts_that_are_left_out_are_read_off_the_weights(run):
    config = read_arc(run("relu").change(drop_hyper=["n_encoder_layers", "n_decoder_layers"]).folder)[0].config
    assert (config.encoder_layers, config.decoder_layers) == (2, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("checkpoints/final.ckpt", r"final\.ckpt is missing"),
        ("pert_onehot_map.pt", r"pert_onehot_map\.pt is missing"),
        ("batch_onehot_map.torch", r"batch_onehot_map\.torch is missing.*batch encoder"),
    ],
)
def test_missing_files_are_named_with_what_to_do(run, name, words):
    made = run("batch_encoder")
    (made.folder / name).unlink()
    with pytest.raises(CheckpointError, match=words) as error:
        read_arc(made.folder)
    assert "Download" in error.value.fix


@pytest.mark.parametrize("name", ["config.yaml", "var_dims.pkl", "batch_onehot_map.torch", "cell_type_onehot_map.torch"])
def test_files_that_only_add_names_may_be_missing(run, name):
    made = run()
    (made.folder / name).unlink()
    card = read_arc(made.folder)[0]
    assert card.control == "non-targeting"
    missing = {
        "config.yaml": card.perturbation_key,
        "batch_onehot_map.torch": card.batches or None,
        "cell_type_onehot_map.torch": card.contexts or None,
    }
    assert missing.get(name) is None


def test_checkpoints_are_chosen_by_name(run):
    made = run()
    made.checkpoint.rename(made.checkpoint.with_name("step=100.ckpt"))
    assert "Read from step=100.ckpt." in read_notes(made)
    shutil.copy(made.checkpoint.with_name("step=100.ckpt"), made.checkpoint.with_name("step=200.ckpt"))
    assert "Read from step=200.ckpt. step=200.ckpt is the first of 2 checkpoints: step=200.ckpt, step=100.ckpt." in read_notes(
        made
    )
    assert "Read from step=200.ckpt." in read_arc(made.folder, "step=200.ckpt")[0].notes
    shutil.copy(made.checkpoint.with_name("step=100.ckpt"), made.checkpoint.with_name("last.ckpt"))
    assert "Read from last.ckpt." in read_notes(made)
    with pytest.raises(CheckpointError, match=r"no checkpoint other\.ckpt"):
        read_arc(made.folder, "other.ckpt")


@pytest.mark.parametrize("below", ["run", "a/run"])
def test_a_folder_around_the_run_directory_is_told_with_its_place(run, tmp_path, below):
    made = run()
    outer = tmp_path / "outer"
    shutil.copytree(made.folder, outer / below)
    with pytest.raises(
        CheckpointError, match=rf"outer is no run directory.*1 below: {below}\..*Give that folder: outer/{below}\."
    ):
        read_arc(outer)
    assert read_arc(outer / below)[0].name == "run"


def test_a_checkpoint_one_folder_up_and_a_second_last_are_found(run):
    made = run()
    made.checkpoint.rename(made.folder / "final.ckpt")
    made.checkpoint.parent.rmdir()
    assert "Read from final.ckpt." in read_notes(made)
    (made.folder / "final.ckpt").rename(made.folder / "last.ckpt")
    shutil.copy(made.folder / "last.ckpt", made.folder / "last-v1.ckpt")
    assert "last.ckpt is the first of 2 checkpoints: last.ckpt, last-v1.ckpt." in read_notes(made)


def test_one_rule_says_which_checkpoint_is_meant_and_each_verb_takes_another(run, tmp_path):
    """Disk, reader and converter agree; a checkpoint is named by its file wherever a model's folder is given."""
    made = run()
    made.checkpoint.rename(made.checkpoint.with_name("step=9.ckpt"))
    first = made.checkpoint.with_name("step=9.ckpt")
    loaded = torch.load(first, weights_only=False)
    loaded["state_dict"] = {name: value + 1 for name, value in loaded["state_dict"].items()}
    torch.save(loaded, made.checkpoint.with_name("step=10.ckpt"))
    meant = what_is(made.folder).checkpoints[0]
    assert meant == "checkpoints/step=10.ckpt"
    latest = read_arc(made.folder)[0]
    assert latest.weights_hash == read_arc(made.folder, "step=10.ckpt")[0].weights_hash == card_of(made.folder).weights_hash
    other = card_of(first)
    assert other.weights_hash != latest.weights_hash and other.name == latest.name == made.folder.name
    assert "step=9.ckpt was chosen among 2 checkpoints: step=10.ckpt, step=9.ckpt." in other.notes
    assert load_model(first).card == other == read_arc(made.folder, "checkpoints/step=9.ckpt")[0]
    assert convert(made.folder, tmp_path / "ours", checkpoint="step=9.ckpt").weights_hash == other.weights_hash
    assert what_is(first).checkpoints == ("checkpoints/step=9.ckpt",)


def test_control_is_the_first_candidate_the_model_knows(run):
    made = run()
    labels = {"[('DMSO_TF', 0.0, 'uM')]": torch.eye(4)[0], **{f"drug{i}": torch.eye(4)[i] for i in (1, 2, 3)}}
    torch.save(labels, made.folder / "pert_onehot_map.pt")
    made.change({"control_pert": "DMSO_TF"})
    columns = {"data": {"kwargs": {"pert_col": "drugname_drugconc", "cell_type_key": "cell_name", "batch_col": "plate"}}}
    (made.folder / "config.yaml").write_text(yaml.safe_dump(columns))
    card = read_arc(made.folder)[0]
    assert card.control == "[('DMSO_TF', 0.0, 'uM')]"
    assert any("'DMSO_TF' is not among the perturbations" in note for note in card.notes)
    (made.folder / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"None of the control labels \(DMSO_TF, non-targeting\)"):
        read_arc(made.folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"sliding_window": 3}, "sliding_window"),
        ({"hidden_size": 99}, "hidden_size of the backbone is 99"),
        ({"num_attention_heads": 0}, "make no network"),
    ],
)
def test_backbone_settings_that_are_not_known_are_refused(run, change, words):
    made = run()
    with pytest.raises(CheckpointError, match=words):
        read_arc(made.change(made.backbone(**change)).folder)


def test_backbone_settings_with_the_value_of_the_layout_are_fine(run):
    made = run()
    made.change(made.backbone(hidden_act="silu", rope_scaling=None, attention_bias=False, vocab_size=32000))
    assert read_arc(made.folder)[0].config.backbone.layers == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output_space": "latent"}, "output_space is 'latent'"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"transformer_backbone_key": "mamba"}, "transformer_backbone_key is 'mamba'"),
        ({"lora": {"enable": True, "r": 4, "alpha": 8, "use_dora": True}}, "use_dora"),
        ({"input_dim": "many"}, "make no network"),
        ({"lora": [1]}, "make no network"),
        (
            {"transformer_backbone_kwargs": {"num_attention_heads": 0, "num_hidden_layers": 1, "intermediate_size": 4}},
            "no network",
        ),
    ],
)
def test_settings_that_are_not_known_are_refused(run, change, words):
    with pytest.raises(CheckpointError, match=words):
        read_arc(run().change(change).folder)


def test_unknown_hyper_parameters_are_noted(run):
    made = run().change({"new_trick": 3, "old_trick": False})
    notes = read_notes(made)
    assert "Hyper-parameter new_trick = 3 is not known here; it was left out." in notes
    assert "old_trick" not in notes


def test_missing_hyper_parameters_are_named(run):
    with pytest.raises(CheckpointError, match="lack 'pert_dim'"):
        read_arc(run().change(drop_hyper=["pert_dim"]).folder)


def test_vectors_of_another_width_are_named(run):
    made = run()
    torch.save({"non-targeting": torch.zeros(7)}, made.folder / "pert_onehot_map.pt")
    with pytest.raises(CheckpointError, match="vectors of width 7"):
        read_arc(made.folder)
    torch.save([1, 2], made.folder / "pert_onehot_map.pt")
    with pytest.raises(CheckpointError, match="not a map of labels"):
        read_arc(made.folder)


class Hostile:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("name", ["checkpoints/final.ckpt", "pert_onehot_map.pt", "var_dims.pkl", "cell_type_onehot_map.torch"])
def test_hostile_files_are_refused_wherever_they_are(run, name):
    made = run()
    path = made.folder / name
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"gene_names": Hostile()}))
    else:
        torch.save({"state_dict": Hostile()}, path)
    with pytest.raises(UnsafePickleError, match="system"):
        read_arc(made.folder)


@pytest.mark.parametrize("name", ["checkpoints/final.ckpt", "pert_onehot_map.pt", "var_dims.pkl", "config.yaml"])
def test_damaged_files_are_named(run, name):
    made = run()
    path = made.folder / name
    path.write_bytes(b"{: [" if name == "config.yaml" else path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=path.name):
        read_arc(made.folder)


def test_a_file_that_is_no_lightning_checkpoint(run):
    made = run()
    torch.save({"weights": 1}, made.checkpoint)
    with pytest.raises(CheckpointError, match="no state_dict"):
        read_arc(made.folder)


def test_a_loaded_model_does_not_need_its_files_any_more(run):
    made = run()
    model = load_model(made.folder)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    made.checkpoint.write_bytes(b"\0" * made.checkpoint.stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


def test_convert_writes_our_store(run, tmp_path):
    made = run("features")
    card = convert(made.folder, tmp_path / "ours", name="Kang")
    assert card == read_card(tmp_path / "ours")
    assert card.name == "Kang"
    with pytest.raises(CheckpointError, match="there already"):
        convert(made.folder, tmp_path / "ours")


def test_what_is_no_folder_or_no_run(tmp_path):
    assert what_is(FIXTURES / "state").kind == "arc"
    assert what_is(tmp_path).kind == "unknown"
    with pytest.raises(CheckpointError, match="no folder"):
        read_arc(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"final\.ckpt is missing"):
        read_arc(tmp_path)


LAUGHS = "\n".join(
    ["x0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]"]
    + [f"x{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    + ["data:", "  kwargs:", "    control_pert: *a8", ""]
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "aliases"),
        ("data: !!python/object/apply:os.system [true]", "config.yaml cannot be read"),
        ("a: " + "[" * 5000, "config.yaml cannot be read"),
        ("data: {kwargs: {control_pert: 2020-99-99}}", None),
        ("? [1]\n: 2", "config.yaml cannot be read"),
        ("a: " + "x" * 2_000_000, "2,000,003 characters"),
    ],
)
def test_odd_configurations_end_in_a_sentence(run, text, words):
    made = run()
    (made.folder / "config.yaml").write_text(text)
    if words is None:
        read_arc(made.folder)
    else:
        with pytest.raises(CheckpointError, match=words):
            read_arc(made.folder)


def test_odd_weights_and_labels_end_in_a_sentence(run):
    made = run()
    checkpoint = made.folder / "checkpoints" / "final.ckpt"
    loaded = torch.load(checkpoint, weights_only=False)
    odd = [
        {**loaded, "state_dict": {**loaded["state_dict"], 7: torch.ones(1)}},
        {**loaded, "hyper_parameters": {**loaded["hyper_parameters"], "input_dim": torch.ones(2)}},
        {**loaded, "hyper_parameters": {**loaded["hyper_parameters"], "cell_set_len": [1]}},
        {**loaded, "hyper_parameters": {**loaded["hyper_parameters"], "transformer_backbone_kwargs": 3}},
    ]
    for value in odd:
        torch.save(value, checkpoint)
        with pytest.raises(CheckpointError) as caught:
            read_arc(made.folder)
        assert str(made.folder.parent) not in str(caught.value)
    torch.save(loaded, checkpoint)
    torch.save({"non-targeting": torch.ones(4), "GENE0": torch.ones(3)}, made.folder / "pert_onehot_map.pt")
    with pytest.raises(CheckpointError, match="different widths"):
        read_arc(made.folder)


@pytest.mark.parametrize("total", [10_000, 1e6, 5e4])
def test_a_network_that_normalises_counts_itself_is_refused(run, total):
    """arc-state after 0.11.1. `state_sm` reads genes: its input would be divided by the sum over its own genes."""
    changed = run().change({"log1p_from_raw_counts": True, "counts_target_sum": total})
    with pytest.raises(CheckpointError, match=f"normalises raw counts itself.*sum over the model's own genes, to {total:,.0f}"):
        read_arc(changed.folder)


def test_the_sum_is_10_000_where_the_checkpoint_leaves_it_out(run):
    with pytest.raises(CheckpointError, match="to 10,000"):
        read_arc(run().change({"log1p_from_raw_counts": True}).folder)


@pytest.mark.parametrize("total", [10_000, 0, None])
def test_a_network_that_reads_log1p_values_is_read_without_a_note(run, total):
    """The sum means nothing where counts are not normalised by the network."""
    plain, changed = run("state_sm"), None
    before = read_notes(plain)
    changed = plain.change({"log1p_from_raw_counts": False, "counts_target_sum": total})
    assert read_notes(changed) == before and "raw_counts" not in before


def test_on_embeddings_only_training_targets_are_normalised(run):
    changed = run("embedding_all").change({"log1p_from_raw_counts": True, "counts_target_sum": 1e4})
    assert read_arc(changed.folder)[0].scale is None and "raw_counts" not in read_notes(changed)


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"log1p_from_raw_counts": "yes"}, "log1p_from_raw_counts is 'yes'. It is true or false"),
        ({"log1p_from_raw_counts": True, "counts_target_sum": -1.0}, "counts_target_sum is -1"),
        ({"log1p_from_raw_counts": True, "counts_target_sum": float("nan")}, "counts_target_sum is nan"),
        ({"log1p_from_raw_counts": True, "counts_target_sum": "many"}, "make no network"),
    ],
)
def test_settings_of_counts_that_mean_nothing(run, hyper, words):
    with pytest.raises(CheckpointError, match=words):
        read_arc(run().change(hyper).folder)
