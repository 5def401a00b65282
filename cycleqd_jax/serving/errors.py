"""Errors of a request, in OpenAI's form."""

from typing import Any

from cycleqd_jax.errors import CycleQDError

INVALID = "invalid_request_error"
FAILED = "server_error"


class ApiError(CycleQDError):
    """A request that is not answered.

    Attributes:
      status: of HTTP.
      kind: OpenAI's `type`.
      param: the field that is wrong, if it is one.
      code: OpenAI's short name, if it has one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
    ):
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }
