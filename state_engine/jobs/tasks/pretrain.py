"""What the worker does to pretrain: the model pretrained in the run's folder and taken into the library."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from state_engine.config import load_settings
from state_engine.device import choose_device
from state_engine.errors import ConfigError
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.allowed import check_data, check_readable
from state_engine.library.models import EMBEDDINGS, incoming
from state_engine.options import command
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.pretrain.request import PretrainRequest
from state_engine.pretrain.run_folder import MODEL, read_pretraining
from state_engine.progress import OnProgress

OUTPUT = "pretraining"


@dataclass(frozen=True)
class PretrainedModel:
    """Id and name of the model, and the steps it was pretrained for."""

    model: str
    name: str
    steps: int


def pretraining_folder(run: RunFolder) -> Path:
    """Return where the pretraining of a run lies, see `pretrain.run_folder`."""
    return run.path / OUTPUT


def pretrain(request: PretrainRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> PretrainedModel:
    """Pretrain a model. Asked for again, a stopped pretraining goes on from its last checkpoint, in its own folder."""
    settings = load_settings()
    check_readable(settings, request.genes, request.init_from)
    check_data(settings, *request.data)
    if request.all_devices > 1:
        raise ConfigError(
            "A pretraining job uses one device.",
            f"It asks for {request.all_devices}, which need processes of their own.",
            f"Use the command line: {command(request, output='RUN')}",
        )
    warm.clear()  # the memory is wanted for the training
    folder = pretraining_folder(run)
    started = any((folder / "checkpoints").glob("*.ckpt"))
    if folder.exists() and not started:
        run.log("There is no checkpoint yet: the pretraining begins anew.")
        shutil.rmtree(folder)
    run.record(
        seed=request.running.seed,
        device=choose_device(request.running.device).name,
        precision=request.running.precision,
        command=command(request, output="RUN"),
        settings={"data": len(request.data)},
    )
    made = pretrain_embedding(request, folder, on_progress, resume=started)
    for note in (*made.card.notes, *made.report.notes):
        run.log(note)
    hashes = list(read_pretraining(folder).data.values())
    data = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    run.record(model_hash=made.card.weights_hash, data_hash=data)
    with incoming(settings) as beside:
        for name in EMBEDDINGS.files:
            if (folder / MODEL / name).is_file():
                shutil.copyfile(folder / MODEL / name, beside / name)
        entry = EMBEDDINGS.adopt(beside, settings)
    return PretrainedModel(entry.card.id if entry.card else "", made.card.name, made.card.training.steps)
