from tl_distributed.api.model import Model as Model
from tl_distributed.api.rank import Ranking as Ranking
from tl_distributed.api.rank import rank as rank
from tl_distributed.api.run import Run as Run
from tl_distributed.api.run import load as load
from tl_distributed.api.run import train as train
from tl_distributed.api.study import Study as Study
from tl_distributed.api.study import study as study
from tl_distributed.errors import Stopped as Stopped
from tl_distributed.errors import UserError as UserError
from tl_distributed.models.backbones import Backbone as Backbone
from tl_distributed.models.build import register_backbone as register_backbone
from tl_distributed.settings.config import Config as Config
from tl_distributed.training.tasks import Classification as Classification
from tl_distributed.training.tasks import MultiLabel as MultiLabel
from tl_distributed.training.tasks import Task as Task

__version__: str
__all__: list[str]
