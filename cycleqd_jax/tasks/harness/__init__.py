"""Tasks of lm-evaluation-harness (EleutherAI/lm-evaluation-harness) as tasks here.

Data, examples, prompts, filters and metrics are the harness's own. Needs the extra
`language`.
"""

import importlib

from cycleqd_jax.errors import BadInputError


def check_installed(who: str) -> None:
    """Imports the harness, which takes seconds.

    Args:
      who: needs it.

    Raises:
      BadInputError: it is not installed.
    """
    try:
        importlib.import_module("lm_eval")
        importlib.import_module("lm_eval.api.task")
    except ImportError as err:
        raise BadInputError(
            f"{who} needs lm-evaluation-harness, which cannot be imported ({err}); "
            "install it with pip install 'cycleqd-jax[language]'."
        ) from err
