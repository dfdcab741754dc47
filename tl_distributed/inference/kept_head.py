"""Whether the head of a saved model answers the question that a new run asks."""

from collections.abc import Callable, Sequence

from tl_distributed.inference.class_order import why_other_classes
from tl_distributed.inference.model_info import stored_class_names


def head_of_classes(class_names: Sequence[str]) -> Callable[[str], str]:
    """Returns what says, of a model's file, why its head is of no use for these classes; nothing where it is of use.

    Args:
      class_names: In order of label; none where they are unknown.
    """

    def why_new_head(file: str) -> str:
        stored = stored_class_names(file)
        if not stored or not class_names:
            return "it is not known which classes the file's was trained on"
        if stored == tuple(class_names):
            return ""
        same_names = not why_other_classes(stored, class_names)
        return "the file's was trained on " + ("these classes in another order" if same_names else "other classes")

    return why_new_head
