"""One table from errors to answers: statuses, shapes, headers."""

import json

import pytest
from aiohttp import web

from appliance import errors
from appliance.http.errors import (
    BodyTimeoutError,
    Dialect,
    FieldError,
    NoCloudError,
    NotYetError,
    OptionError,
    RefusedFieldError,
    problem_of,
)
from appliance.trust.errors import PolicyRefusedError, TrustError
from engine import errors as engine_errors


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (errors.BadRequestError("x"), 400, "invalid_request_error"),
        (errors.ModelNameError("x"), 400, "invalid_request_error"),
        (errors.ModelfileError("x"), 400, "invalid_request_error"),
        (errors.UnsupportedError("x"), 400, "invalid_request_error"),
        (errors.DigestMismatchError("x"), 400, "invalid_request_error"),
        (FieldError("n", "x"), 400, "invalid_request_error"),
        (OptionError("x"), 400, "invalid_request_error"),
        (BodyTimeoutError("x"), 408, "invalid_request_error"),
        (errors.RequestTooLargeError("x"), 413, "invalid_request_error"),
        (errors.UnauthorizedError("x"), 401, "authentication_error"),
        (errors.ForbiddenError("x"), 403, "permission_error"),
        (errors.RateLimitedError("x"), 429, "rate_limit_error"),
        (errors.ConflictError("x"), 409, "invalid_request_error"),
        (errors.ModelNotFoundError("x"), 404, "not_found_error"),
        (errors.NotFoundError("x"), 404, "not_found_error"),
        (NoCloudError("x"), 501, "invalid_request_error"),
        (NotYetError("x"), 501, "invalid_request_error"),
        (errors.LibraryError("x"), 500, "api_error"),
        (errors.DiskFullError("x"), 507, "api_error"),
        (errors.ReadOnlyError("x"), 507, "api_error"),
        (errors.MemoryFitError("x"), 503, "api_error"),
        (errors.OverloadedError("x"), 503, "overloaded_error"),
        (errors.TemplateError("x"), 500, "api_error"),
        (errors.ConfigError("x"), 500, "api_error"),
        (TrustError("x"), 502, "api_error"),
        (PolicyRefusedError("x"), 403, "permission_error"),
        (engine_errors.ContextLengthError("x"), 400, "invalid_request_error"),
        (engine_errors.EngineRequestError("x"), 400, "invalid_request_error"),
        (engine_errors.EngineBusyError("x"), 503, "overloaded_error"),
        (engine_errors.BackendUnavailableError("x"), 500, "api_error"),
        (engine_errors.ModelFormatError("x"), 500, "api_error"),
        (engine_errors.DeviceMemoryError("x"), 503, "api_error"),
        (engine_errors.EngineCrashedError("x"), 500, "api_error"),
        (web.HTTPNotFound(), 404, "not_found_error"),
        (web.HTTPMethodNotAllowed("GET", ["POST"]), 405, "invalid_request_error"),
        (web.HTTPRequestEntityTooLarge(1, 2), 413, "invalid_request_error"),
        (ZeroDivisionError("secret"), 500, "api_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_status_and_type(error, status, type_):
    problem = problem_of(error, Dialect.OPENAI)
    assert (problem.status, problem.type) == (status, type_)


def test_every_class_of_the_trees_has_a_status():
    def tree(cls):
        return [cls, *(below for child in cls.__subclasses__() for below in tree(child))]

    for cls in [*tree(errors.ApplianceError), *tree(engine_errors.EngineError)]:
        error = cls("n", "x") if issubclass(cls, FieldError) else cls("x")
        problem = problem_of(error, Dialect.OLLAMA)
        assert 400 <= problem.status < 600
        assert (problem.code, problem.message) == (cls.code, "x")


def test_ollama_answers_500_to_bad_options():
    assert problem_of(OptionError("x"), Dialect.OLLAMA).status == 500
    assert not problem_of(OptionError("x"), Dialect.OLLAMA).needs_traceback


def test_the_two_shapes():
    error = RefusedFieldError("tools", "no tools", hint="leave it out")
    ollama = json.loads(problem_of(error, Dialect.OLLAMA).body(Dialect.OLLAMA))
    openai = json.loads(problem_of(error, Dialect.OPENAI).body(Dialect.OPENAI))
    assert ollama == {"error": "no tools", "code": "unsupported", "hint": "leave it out"}
    assert openai == {
        "error": {
            "message": "no tools (leave it out)",
            "type": "invalid_request_error",
            "param": "tools",
            "code": "unsupported",
        }
    }


def test_the_shape_of_anthropic():
    dialect = Dialect.ANTHROPIC
    problem = problem_of(RefusedFieldError("tools", "no tools", hint="leave it out"), dialect)
    assert json.loads(problem.body(dialect, "req_1")) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "no tools (leave it out)"},
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (errors.OverloadedError("x"), 529, "overloaded_error"),
        (engine_errors.EngineBusyError("x"), 529, "overloaded_error"),
        (errors.RequestTooLargeError("x"), 413, "request_too_large"),
        (errors.RateLimitedError("x"), 429, "rate_limit_error"),
        (errors.UnauthorizedError("x"), 401, "authentication_error"),
        (errors.ForbiddenError("x"), 403, "permission_error"),
        (errors.ModelNotFoundError("x"), 404, "not_found_error"),
        (ZeroDivisionError("x"), 500, "api_error"),
    ],
)
def test_anthropics_own_statuses(error, status, type_):
    problem = problem_of(error, Dialect.ANTHROPIC)
    assert problem.status == status
    assert json.loads(problem.body(Dialect.ANTHROPIC))["error"]["type"] == type_


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        ("/v1/messages", (), Dialect.ANTHROPIC),
        ("/v1/messages/count_tokens", (), Dialect.ANTHROPIC),
        ("/v1/messagesx", (), Dialect.OPENAI),
        ("/v1/models", (), Dialect.OPENAI),
        ("/v1/models", {"anthropic-version"}, Dialect.ANTHROPIC),
        ("/v1/models/echo", {"anthropic-version"}, Dialect.ANTHROPIC),
        ("/v1/chat/completions", {"anthropic-version"}, Dialect.OPENAI),
        ("/api/chat", {"anthropic-version"}, Dialect.OLLAMA),
    ],
)
def test_whose_shape_it_is(path, headers, dialect):
    assert Dialect.of(path, headers) is dialect


def test_an_unexpected_error_tells_nothing_but_wants_a_traceback():
    problem = problem_of(ZeroDivisionError("/secret/path"), Dialect.OLLAMA)
    assert "secret" not in problem.message
    assert problem.code == "internal_error"
    assert problem.needs_traceback


def test_retry_after_is_the_errors_own_guess():
    full = problem_of(errors.OverloadedError("full", retry_after_s=7), Dialect.OLLAMA)
    busy = problem_of(engine_errors.EngineBusyError("busy"), Dialect.OLLAMA)
    unfit = problem_of(errors.MemoryFitError("too big"), Dialect.OLLAMA)
    assert full.headers == {"Retry-After": "7"}
    assert busy.headers == {"Retry-After": "1"}
    assert unfit.headers == {}  # waiting would not help


def test_the_wrong_method_names_the_right_ones():
    problem = problem_of(web.HTTPMethodNotAllowed("GET", ["POST"]), Dialect.OLLAMA)
    assert problem.headers == {"Allow": "POST"}


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/models", Dialect.OPENAI),
        ("/rerank", Dialect.OPENAI),
        ("/v2/rerank", Dialect.OPENAI),
        ("/tokenize", Dialect.OPENAI),
        ("/v2/library/rerank", Dialect.OLLAMA),
        ("/v1", Dialect.OPENAI),
        ("/v10/x", Dialect.OLLAMA),
        ("/api/tags", Dialect.OLLAMA),
        ("/hearth/v1/status", Dialect.OLLAMA),
    ],
)
def test_the_path_chooses_the_dialect(path, dialect):
    assert Dialect.of(path) is dialect
