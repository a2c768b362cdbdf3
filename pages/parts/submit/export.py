"""Parts of the Submit page that hand out a run: its cells, its tables, and how it was made."""

from __future__ import annotations

import streamlit as st

from pages.parts.format import code, duration, md, plural
from pages.parts.result import open_run
from pages.parts.take_home import file_button, made_by_a_job
from state_engine import keys
from state_engine.analysis import export
from state_engine.data.files.zarr_copy import STORE
from state_engine.jobs.requests import MatrixRequest, StoreRequest, TablesRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.prediction.matrix import FILE_NAME as MATRIX
from state_engine.prediction.matrix import labels_beside
from state_engine.prediction.result import Result

_TABLES = (
    "All genes of every condition, agreement with the measurement beside simple baselines, effect sizes, pseudobulks, and every cell with "
    "its place on the map. CSV, with a README."
)


def results(run: RunFolder) -> None:
    """Three things to take: cells, tables, and the record of how they were made."""
    result = open_run(run)
    cells, tables, record = st.columns(3, gap="medium")
    with cells, st.container(border=True, key="take_cells", height="stretch"):
        _cells(run, result)
    with tables, st.container(border=True, key="take_tables", height="stretch"):
        _tables(run)
    with record, st.container(border=True, key="take_record", height="stretch"):
        _record(run)
    with st.expander("How to open the cells", icon=":material/code:"):
        st.code(_python(result), language="python")
        st.caption('In R: `zellkonverter::readH5AD("result.h5ad")`.')
    with st.expander("Where it lies on the server", icon=":material/folder:"):
        st.code(str(run.path), language=None, wrap_lines=True)
        st.caption("The folder stands alone: copy it, and nothing is missing.")


def _cells(run: RunFolder, result: Result) -> None:
    st.markdown("**The cells** · .h5ad")
    st.markdown(contents(result))
    file_button(run.result, "Cells", f"{run.id}.h5ad", "result_h5ad", "application/x-hdf5", primary=True)
    store = run.file(STORE)
    if made_by_a_job(run, StoreRequest(run.id), store, "the zarr store", "The same as a zipped zarr store (version 2)"):
        file_button(store, "Zarr", f"{run.id}.zarr.zip", "result_zarr", "application/zip")
    matrix = run.file(MATRIX)
    if made_by_a_job(run, MatrixRequest(run.id), matrix, "the matrix", "The predicted cells alone as .npy, with their labels"):
        file_button(matrix, "Matrix", f"{run.id}.npy", "matrix_npy", "application/octet-stream")
        file_button(labels_beside(matrix), "Labels", f"{run.id}-cells.csv", "matrix_csv", "text/csv")


def contents(result: Result) -> str:
    """What is in a result file, in words."""
    kinds = ", ".join(
        f"{int(result.mask(kind).sum()):,} {keys.KIND_WORDS[kind]}" for kind in keys.KINDS if result.mask(kind).any()
    )
    if result.has_expression:
        raw = "; layer `raw`: the model's output as it is" if result.has_raw else ""
        calibrated = "; layer `calibrated`: the calibrated prediction, NaN where there is none" if result.has_calibrated else ""
        values = f"{result.n_genes:,} genes. `X`: expression (log1p), corrected{raw}{calibrated}."
    else:
        values = f"No genes: embedding {code(result.embedding)} of {result.embedding_width:,} dimensions."
    return f"{plural(result.n_cells, 'cell')} ({kinds}), {values}"


def _tables(run: RunFolder) -> None:
    st.markdown("**The tables** · .zip")
    st.markdown(_TABLES)
    path = run.file(export.FILE_NAME)
    if made_by_a_job(run, TablesRequest(run.id), path, "the tables"):
        file_button(path, "Tables", f"{run.id}-tables.zip", "tables_zip", "application/zip")


def _record(run: RunFolder) -> None:
    manifest = run.manifest
    st.markdown("**How it was made** · .json")
    st.markdown(
        f"Request, versions, seed {manifest.seed}, hashes of data and model, device {md(manifest.device or 'unknown')}, "
        f"{duration(manifest.elapsed or 0)}. The same is inside the .h5ad, in `uns`."
    )
    file_button(run.file("manifest.json"), "Manifest", f"{run.id}-manifest.json", "manifest_json", "application/json")
    if manifest.command:
        with st.popover("The command that repeats it", icon=":material/terminal:"):
            st.code(manifest.command, language="bash", wrap_lines=True)


def _python(result: Result) -> str:
    lines = [
        "import anndata",
        "",
        'cells = anndata.read_h5ad("result.h5ad")',
        f'predicted = cells[cells.obs["kind"] == "{keys.PREDICTED}"]',
        f'control = cells[cells.obs["kind"] == "{keys.PREDICTED_CONTROL}"]   # the same basal cells under the control label',
    ]
    if result.has_expression:
        kept = ((result.has_raw, keys.RAW_LAYER), (result.has_calibrated, keys.CALIBRATED_LAYER))
        lines += [f'{layer} = predicted.layers["{layer}"]' for there, layer in kept if there]
    else:
        lines.append(f'embedding = predicted.obsm["{result.embedding}"]')
    return "\n".join(lines)
