"""How calls of an MLflow server end: each in time, and what is not MLflow's answer is none."""

import time
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.util import Retry

from runrecord.trackers.mlflow.failures import NO_MLFLOW

LONGEST = 60.0  # seconds that an answer may take to arrive whole
LARGEST = 2**28  # bytes of one
_CHUNK = 2**16
_APIS = ("/api/2.0/mlflow", "/api/3.0/mlflow")


def guard() -> None:
    """Let all of MLflow's sessions in this process go by what is written here."""
    from mlflow.utils import request_utils

    if not issubclass(request_utils.TCPKeepAliveHTTPAdapter, _Guarded):
        kind = request_utils.TCPKeepAliveHTTPAdapter
        request_utils.TCPKeepAliveHTTPAdapter = type("Guarded", (_Guarded, kind), {})
        request_utils._cached_get_request_session.cache_clear()


class _Guarded(requests.adapters.HTTPAdapter):
    """Of MLflow's API: posts nothing twice, waits for no end that never comes, takes no HTML.

    MLflow's client tries each call again. Of a call that makes a run, whose answer was lost, that
    makes a second one. It takes an empty answer for an empty list, and follows an upload's
    redirection to a page that asks for a password, and finds that page.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        retries: Retry = given["max_retries"]
        self._once = requests.adapters.HTTPAdapter(max_retries=retries.new(total=0))

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **given: Any
    ) -> requests.Response:
        if isinstance(given.get("timeout"), int):
            given["timeout"] = min(given["timeout"], LONGEST)
        began, address = time.monotonic(), urlsplit(str(request.url))
        of_api = any(api in address.path for api in _APIS)
        send = self._once.send if of_api and request.method == "POST" else super().send
        response = send(request, stream, *args, **given)
        if of_api and response.is_redirect and request.method != "GET":
            to = urlsplit(response.headers["location"]).netloc or address.netloc
            raise requests.ConnectionError(f"it redirects to {to}, as to log in there")
        if stream or response.is_redirect:
            return response
        _read(response, began + LONGEST)
        begins = response.content.strip()[:1]
        uploaded = request.method == "PUT" and not begins  # some servers answer that with nothing
        found = response.status_code == requests.codes.ok
        if of_api and found and not uploaded and begins != b"{":
            raise requests.ConnectionError(f"it {NO_MLFLOW}")
        return response


def _read(response: requests.Response, deadline: float) -> None:
    """Read what is answered, up to a time and a size."""
    content = bytearray()
    for chunk in response.iter_content(_CHUNK):
        content += chunk
        if len(content) > LARGEST or time.monotonic() > deadline:
            response.close()
            raise requests.ConnectionError("its answer does not end")
    response._content = bytes(content)
