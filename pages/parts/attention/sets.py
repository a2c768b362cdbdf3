"""Parts of the Attention page: choosing a set, computing its maps, and the views of them."""

from __future__ import annotations

import streamlit as st

from pages.parts import session
from pages.parts.attention import order as attentionorder
from pages.parts.attention import views
from pages.parts.format import md, plural
from pages.parts.jobs import derived_run, job_panel, start_job
from pages.parts.result import can_compute, stamp
from state_engine.attention.maps import AttentionMaps
from state_engine.jobs.requests import AttentionMapsRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import Result

MEAN = "Mean"


def cell_sets(run: RunFolder, result: Result) -> views.CellSet:
    """Pickers for perturbation, context and the number of the set."""
    request = run.request_as(PredictionRequest)
    conditions = result.conditions()
    perturbations, contexts = (list(dict.fromkeys(labels)) for labels in zip(*conditions, strict=True))
    size = int(str(run.manifest.settings["set_size"]))
    columns = st.columns([3, 3, 2])
    session.recall(f"att_perturbation_{run.id}", perturbations, perturbations[0], "perturbation")
    session.recall(f"att_context_{run.id}", contexts, contexts[0], "context")
    perturbation = columns[0].selectbox("Perturbation", perturbations, key=f"att_perturbation_{run.id}")
    context = columns[1].selectbox("Context", contexts, key=f"att_context_{run.id}")
    sets, key = -(-request.count(str(perturbation)) // size), f"att_set_{run.id}"
    # the perturbation before may have had more
    session.recall(key, range(1, sets + 1), min(st.session_state.get(key, 1), sets), "set")
    number = columns[2].number_input(
        f"Set (1 to {sets})", 1, sets, key=key, help=f"Predictions were made in sets of {size} cells."
    )
    usual = {"perturbation": perturbations[0], "context": contexts[0], "set": 1}
    session.show_in_address("attention", usual, tuple(usual))
    return views.CellSet(str(perturbation), str(context), int(number) - 1)


def maps_of(run: RunFolder, chosen: views.CellSet) -> AttentionMaps | None:
    """The maps of a set; while they are not there, the button or the job that makes them, and None."""
    path = run.file(chosen.file)
    if path.exists():
        return views.load(str(path), stamp(path))
    request = AttentionMapsRequest(run.id, chosen.perturbation, chosen.context, chosen.number)
    asked = derived_run(run, request)
    if (
        asked is not None
        and not job_panel(asked.id, title=f"Attention of {_words(chosen)}", key="attention_job")
        and asked.active
    ):
        return None
    with st.container(border=True, key="attention_empty"):
        st.markdown(f"#### {md(_words(chosen))} was not looked at yet")
        st.markdown(
            "Attention maps are large, so they are made for one set at a time: the set is predicted once more, under the perturbation "
            "and under the control, and the weights of all heads are kept with the run."
        )
        if can_compute("Attention of this set is") and st.button(
            "Compute attention of this set", type="primary", key="compute_attention", icon=":material/grid_on:"
        ):
            start_job(request, f"Attention of {_words(chosen)}", parent=run.id)
            st.rerun()
    return None


def _words(chosen: views.CellSet) -> str:
    return f"Set {chosen.number + 1} of {chosen.perturbation} in {chosen.context}"


@st.fragment
def show_attention(run: RunFolder, result: Result, chosen: views.CellSet, maps: AttentionMaps) -> None:
    """All views of a set's maps. A fragment: a choice made here does not run the page again."""
    answer = st.container()  # above the pickers that it depends on
    _say_mode(maps)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        under = _pick_view(chosen)
    with right:
        layer, head = _pick_head(run, maps)
    with answer:
        views.answer(maps, chosen, layer, head)
    sorting = _pick_sorting(run, maps, layer, head)
    weights = views.weights_of(maps, under, layer, head)
    said = {
        "perturbed": f"under {chosen.perturbation}",
        "control": "under the control",
        "difference": "perturbation minus control",
    }
    name = f"{views.head_words(layer, head)}, {said[under]}"
    with st.container(key="halves_attention"):  # the second of two stands below in a narrow window
        left, right = st.columns(2, gap="large")
        with left:
            views.overview(run, chosen, maps, under, sorting, (layer, head))
        with right:
            views.detail(maps, weights, sorting, under == "difference", name)
        st.markdown("#### Which cells get the attention?")
        views.most_attended(run, result, chosen, maps, layer, head)
        left, right = st.columns(2, gap="large")
        with left:
            views.groups(weights, sorting, under == "difference", name)
        with right:
            views.downloads(run, chosen)
        st.markdown("#### How mixed is this set?")
        views.mixed(maps, layer, head)


def _pick_view(chosen: views.CellSet) -> views.Under:
    words = {"perturbed": md(chosen.perturbation), "control": "Control", "difference": "Difference"}
    options: list[views.Under] = ["perturbed", "control", "difference"]
    session.recall("att_view", options, options[0], "under")
    picked = st.segmented_control(
        "Attention under",
        options,
        key="att_view",
        required=True,
        wrap=True,
        format_func=lambda option: words[option],
        help="The same cells, predicted under the perturbation and under the control label; difference is perturbation minus control.",
    )
    return picked or options[0]


def _say_mode(maps: AttentionMaps) -> None:
    s = len(maps.cells)
    if maps.mode == "full":
        st.caption(
            f"{plural(s, 'cell')}. Every cell sees every other and a set has no order, so maps are sorted by what is known of the cells."
        )
    else:
        st.warning(
            f"**The order of the cells matters in this model.** Its attention is {maps.mode}: each of the {s:,} cells sees itself and "
            "those before it in the set, so early cells get more attention only because more cells see them.",
            icon=":material/format_list_numbered:",
        )
    if len(set(maps.cells.tolist())) < s:
        st.caption(
            f"{plural(len(set(maps.cells.tolist())), 'different cell')}: the context has fewer control cells than were asked for."
        )


def _pick_head(run: RunFolder, maps: AttentionMaps) -> tuple[int | None, int | None]:
    """Layer and head, from 0; None for the mean."""
    layers, heads = maps.perturbed.shape[:2]
    left, right = st.columns(2)
    options: list[list[str | int]] = [[MEAN, *range(1, n + 1)] for n in (layers, heads)]
    session.recall(f"att_layer_{run.id}", options[0], MEAN, "layer")
    session.recall(f"att_head_{run.id}", options[1], MEAN, "head")
    layer = left.selectbox("Layer", options[0], key=f"att_layer_{run.id}", help="Or click a head in the overview.")
    head = right.selectbox("Head", options[1], key=f"att_head_{run.id}", help="Mean is over all heads of the layer.")
    return (None if layer == MEAN else int(layer) - 1), (None if head == MEAN else int(head) - 1)


def _pick_sorting(run: RunFolder, maps: AttentionMaps, layer: int | None, head: int | None) -> attentionorder.Sorting:
    batches = sorted(set(maps.batches.tolist()))
    options = [s for s in attentionorder.SORTS if s != "Batch" or len(batches) > 1]
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    key = f"att_sort_{run.id}"
    session.recall(key, options, _first_sort(maps), "sort")
    by = left.pills("Sort cells by", options, key=key, required=True, wrap=True)
    gene = ""
    if by == "A gene":
        genes, key = maps.genes.tolist(), f"att_gene_{run.id}"
        session.recall(key, genes, genes[0], "gene")
        gene = str(right.selectbox("Gene", genes, key=key, help="Of the model's input. Type to search."))
    usual: dict[str, object] = {"under": "perturbed", "layer": MEAN, "head": MEAN, "sort": _first_sort(maps)}
    if not gene:  # what was chosen for a gene is not shown
        usual["gene"] = st.session_state.get(f"att_gene_{run.id}")
    session.show_in_address("attention", usual, ("under", "layer", "head", "sort", "gene"))
    return attentionorder.sort_cells(maps, str(by), gene, layer, head)


def _first_sort(maps: AttentionMaps) -> str:
    """Return how cells are sorted at first: by what is known of them where a set has no order."""
    return "Distance to the set's mean" if maps.mode == "full" else attentionorder.SORTS[0]
