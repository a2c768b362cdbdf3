"""The public names, each with the module that has it: what editors and type checkers read, and what `__init__.py` resolves."""

from .analysis.differential import differential as differential
from .analysis.enrichment import EnrichRequest as EnrichRequest
from .attention.cell_set import AttentionRequest as AttentionRequest
from .attention.cell_set import attention_of_set as attention_of_set
from .attention.maps import load_maps as load_maps
from .challenge.spec import load_challenge as load_challenge
from .challenge.submit import submit as submit
from .challenge.template import (
    TemplateRequest as TemplateRequest,
)
from .challenge.template import (
    plan_from_template as plan_from_template,
)
from .challenge.template import (
    write_targets as write_targets,
)
from .checkpoints.arc.read import convert as convert
from .checkpoints.card import ModelCard as ModelCard
from .checkpoints.embedding_store import (
    convert_embedding as convert_embedding,
)
from .checkpoints.embedding_store import (
    embedding_card_of as embedding_card_of,
)
from .checkpoints.embedding_store import (
    load_embedding as load_embedding,
)
from .checkpoints.head_store import load_head as load_head
from .checkpoints.load import card_of as card_of
from .checkpoints.load import load_model as load_model
from .checkpoints.store import save_model as save_model
from .comparison.compare import compare as compare
from .comparison.request import ComparedSide as ComparedSide
from .comparison.request import CompareRequest as CompareRequest
from .config import Settings as Settings
from .config import load_settings as load_settings
from .data.choices import Choices as Choices
from .data.dataset import Dataset as Dataset
from .data.dataset import open_dataset as open_dataset
from .data.splits.apply import open_split as open_split
from .data.splits.plan import read_plan as read_plan
from .embedding.decode import DecodeRequest as DecodeRequest
from .embedding.decode import decode as decode
from .embedding.embed import embed as embed
from .embedding.gene_attention import cls_attention as cls_attention
from .embedding.gene_attention_table import load_cls_attention as load_cls_attention
from .embedding.request import EmbedRequest as EmbedRequest
from .errors import StateError as StateError
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.held_out import evaluate_held_out as evaluate_held_out
from .evaluation.request import EvaluationRequest as EvaluationRequest
from .evaluation.request import HeldOutRequest as HeldOutRequest
from .evaluation.request import PredictedFile as PredictedFile
from .heads.annotate import annotate as annotate
from .heads.finetune import finetune as finetune
from .heads.request import AnnotateRequest as AnnotateRequest
from .heads.request import FinetuneRequest as FinetuneRequest
from .library.other_formats import as_h5ad as as_h5ad
from .prediction.compatibility import check_compatibility as check_compatibility
from .prediction.predict import predict as predict
from .prediction.replay import ReplayRequest as ReplayRequest
from .prediction.replay import replay as replay
from .prediction.request import PredictionRequest as PredictionRequest
from .prediction.request import estimate as estimate
from .prediction.result import open_result as open_result
from .progress import Progress as Progress
from .public_data.fetch import fetch as fetch
from .screening.request import ScreenRequest as ScreenRequest
from .screening.run import screen as screen
from .train.fit import train_transition as train_transition
from .train.request import TrainRequest as TrainRequest

__version__: str
