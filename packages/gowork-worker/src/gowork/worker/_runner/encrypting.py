"""Decrypts the payload of an attempt before its handler sees it, and encrypts all that the handler says.

This happens in the runner, so the supervisor never has a key. What the worker itself says of an attempt, such as that
its time limit ran out, stays readable.
"""

from __future__ import annotations

import logging
from functools import partial

from gowork.base.codecs import Codec, CodecError, UnknownKey, load_codec
from gowork.base.encryption import LABEL, Encryption, TooLarge, envelope_of, is_encrypted
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.codec import PayloadError, ResultError
from gowork.worker._core.context import Context
from gowork.worker._core.encryption_options import EncryptionOptions
from gowork.worker._core.steering import Snooze
from gowork.worker._runner.completion import AttemptReport, Completion
from gowork.worker._runner.exceptions import cut

logger = logging.getLogger("gowork.worker")

#: Seconds until a task is tried again whose key this worker does not have. Another worker may have it, or the file of
#: keys is about to be replaced. Such attempts do not count, up to the bound of those that do not.
KEY_MISSING_DELAY = 30.0
#: Most characters of a reason that the leader keeps.
_REASON_BYTES_MAX = 1000
#: How much of a failure's message becomes the reason of its attempt, in characters. The leader takes as much.
_REASON_OF_FAILURE = 200
_COMPLETED = tasks.ATTEMPT_OUTCOME_COMPLETED


class KeyMissing(Snooze):
    """This worker cannot decrypt a task, but another one may."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, delay=KEY_MISSING_DELAY)


class Encrypting:
    """What attempts do about encryption. May be used from any thread."""

    def __init__(self, worker: str, codec: Codec | None = None, *, is_required: bool = False) -> None:
        """Args:
        worker: the worker's name.
        codec: None where the worker has none.
        is_required: whether payloads that are not encrypted are refused.
        """
        self._worker = worker
        self._encryption = None if codec is None else Encryption(codec)
        self._is_required = is_required
        #: Whether `open` has to look at payloads that are no bytes.
        self.looks_at_all = is_required

    @classmethod
    def of(cls, worker: str, options: EncryptionOptions) -> Encrypting:
        """Makes it from a worker's options. Without codec and keys it encrypts nothing.

        Raises:
            CodecSetupError: when the codec or its keys cannot be used.
        """
        codec = load_codec(options.codec, options.keys) if options else None
        return cls(worker, codec, is_required=options.is_required)

    def open(self, context: Context, task: tasks.Task) -> None:
        """Decrypts the payload of an attempt, in its context. From then on its progress is encrypted.

        Args:
            context: the attempt's.
            task: as it was scheduled.

        Raises:
            KeyMissing: when this worker has not got the key.
            PayloadError: when the payload was altered, is another task's, or is not encrypted and has to be.
        """
        if not is_encrypted(task.data):
            if self._is_required:
                raise PayloadError(
                    "payload: it is not encrypted, and this worker takes only encrypted ones (--require-encryption)"
                )
            return
        if self._encryption is None:
            envelope = envelope_of(task.data)
            assert envelope is not None
            raise KeyMissing(f"the payload is {envelope.told}; worker {self._worker} has no keys (--keys)")
        try:
            payload = self._encryption.open_payload(context.id, task.handler, task.data)
        except UnknownKey as error:
            raise KeyMissing(f"{error}, on worker {self._worker}") from None
        except CodecError as error:
            raise PayloadError(f"payload: {error}") from None
        context.payload, context.data, context.payload_form = payload.text, payload.data, payload.form
        context.key_id = payload.key_id
        context.hides = partial(self._progress, context.id, payload.key_id)
        encryption, id, key_id = self._encryption, context.id, payload.key_id
        context._seals = (  # noqa: SLF001 - handlers are not to set it
            lambda state: encryption.checkpoint(id, state, key_id),
            partial(encryption.open_checkpoint, id),
        )

    def close(self, context: Context, report: AttemptReport) -> None:
        """Encrypts what an attempt returns and schedules, and what its task runs next, if its payload was encrypted.

        The result has the key of the payload, so whoever scheduled the task can read it. Follow-ups have the key that
        encrypts now.

        Raises:
            ResultError: when something is too large then.
            CodecError: when a key is gone.
        """
        encryption, key_id = self._encryption, context.key_id
        if encryption is None or not key_id:
            return
        try:
            for task in report.follow_ups:
                self._encrypt(task, encryption)
            if not isinstance(report, Completion) and report.HasField("continuation"):
                # With the same key, as it becomes that of the result.
                self._encrypt(report.continuation, encryption, key_id)
                return
            data = encryption.result(report.id, report.result, report.result_data, key_id)
        except TooLarge as error:
            raise ResultError(str(error)) from None
        report.result, report.result_data = "", data
        if not isinstance(report, Completion):
            report.result_is_empty_data = False

    def hide(self, context: Context, report: session.Report) -> None:
        """Encrypts the handler's words in the report of an attempt that has failed, or was put off. Raises nothing."""
        if not context.key_id:
            return
        id, key_id = report.id, context.key_id
        if report.reason:
            report.reason = self._text(id, report.reason, key_id, _REASON_BYTES_MAX)
        if report.HasField("failure"):
            failure = report.failure
            if failure.message and not report.reason:
                # Else the leader would cut the reason from the middle of a ciphertext.
                report.reason = self._text(id, failure.message[:_REASON_OF_FAILURE], key_id, _REASON_BYTES_MAX)
            failure.message = self._text(id, failure.message, key_id, limits.FAILURE_MESSAGE_BYTES_MAX)
            bytes_max = limits.FAILURE_TRACEBACK_BYTES_MAX
            failure.traceback = self._text(id, failure.traceback, key_id, bytes_max, keeps_end=True)

    @staticmethod
    def _encrypt(task: tasks.Task, encryption: Encryption, key_id: str = "") -> None:
        if task.HasField("group") and not (task.handler or task.payload or task.data):
            # Nobody runs it, so that it has no payload.
            return
        try:
            data = encryption.payload(task.id, task.handler, task.payload, task.data, task.payload_form, key_id)
        except TooLarge as error:
            raise TooLarge(f"follow-up {task.id!r}: {error}") from None
        task.payload, task.data, task.payload_form = "", data, tasks.PAYLOAD_FORM_UNSPECIFIED
        task.selector[LABEL] = encryption.name
        if len(task.selector) > limits.LABELS_MAX:
            raise TooLarge(
                f"follow-up {task.id!r}: selector: at most {limits.LABELS_MAX - 1} labels are taken, because {LABEL} "
                "is added to encrypted tasks"
            )

    def _progress(self, id: str, key_id: str, message: str) -> str:
        # Cut first, so that a huge message is not encrypted whole.
        message = cut(message, limits.PROGRESS_MESSAGE_BYTES_MAX)
        return self._text(id, message, key_id, limits.PROGRESS_MESSAGE_BYTES_MAX)

    def _text(self, id: str, words: str, key_id: str, bytes_max: int, *, keeps_end: bool = False) -> str:
        if not words:
            return ""
        assert self._encryption is not None
        try:
            return self._encryption.text(id, words, key_id, bytes_max, keeps_end=keeps_end)
        except Exception as error:  # noqa: BLE001 - a codec of somebody else, or a key that was removed meanwhile
            # In the worker's own log, because the words themselves must not leave in clear.
            logger.error("a text cannot be encrypted and is left out", extra={"task_id": id, "reason": str(error)})
            return f"(left out, because it cannot be encrypted with key {key_id!r} any more)"
