"""Opens and closes a client, and makes the calls about the cluster as a whole: members, queues, counts, upkeep.

The asyncio form of this module is written by hand; the blocking form is generated from it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from os import PathLike
from types import TracebackType
from typing import Self, Unpack

import grpc

from gowork.base.codecs import Codec
from gowork.base.tls_files import TlsFiles
from gowork.client import _arguments as arguments
from gowork.client import _requests as requests
from gowork.client import _responses as responses
from gowork.client._activity_models import Activity
from gowork.client._async.calls import Calls
from gowork.client._async.connection import Connection
from gowork.client._async.schedules import AsyncSchedules
from gowork.client._async.threads import blocking
from gowork.client._backups import BackupFile
from gowork.client._calls import ADDRESS_VARIABLE, CallSettings, Tries
from gowork.client._change_models import KEEP
from gowork.client._encrypting import encryption_of, rewrite
from gowork.client._filters import filter_expression
from gowork.client._handler_models import HandlerInfo
from gowork.client._leader_models import LeaderInfo, Leaders, StoreComparison
from gowork.client._models import Duration, Member, Stats, TaskFilter
from gowork.client._payload_checks import PayloadChecks, check, need_jsonschema, within
from gowork.client._payloads import encode_payload
from gowork.client._queue_models import Explanation, Queue
from gowork.client.errors import LeaderTooOld, PermissionDenied
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class AsyncOperations:
    """The part of a client that opens and closes it, and makes the calls about the cluster as a whole."""

    def __init__(
        self,
        address: str | Iterable[str] | None = None,
        *,
        timeout: float = 30.0,
        patience: float | None = None,
        keys: str | PathLike[str] | None = None,
        codec: str | Codec | None = None,
        tls: TlsFiles | None = None,
        check_payloads: bool = False,
    ) -> None:
        """Makes a client. It connects at the first call. An asyncio client belongs to the event loop of that call.

        Args:
            address: HOST:PORT[,HOST:PORT]… of leaders, or a list of these, at most 16; one is enough. None for the
                value of the environment variable GOWORK_LEADER, or 127.0.0.1:50052 if that is not set. A call goes to
                the address that took the last one. When no leader takes it there, it goes to the next one.
            timeout: the deadline of each call, in seconds.
            patience: how long a call is tried again after no leader took it at any address, in seconds; None for its
                whole deadline.
            keys: the file of keys with which payloads are encrypted and all that comes back is decrypted. None for the
                value of the environment variable GOWORK_KEYS; nothing is encrypted if that is not set, or if `keys` is
                empty.
            codec: what encrypts: its name, or an object (gowork.base.codecs.Codec). None for the value of the
                environment variable GOWORK_CODEC, or aes-256-gcm if that is not set.
            tls: the files with which leaders are called by TLS: their authorities, and the own certificate and key
                where leaders ask for one. None for those that the environment variables GOWORK_TLS_CA, GOWORK_TLS_CERT,
                GOWORK_TLS_KEY and GOWORK_TLS_NAME name, or plain text if none is set. New files are used within
                seconds.
            check_payloads: whether each payload is checked against the schemas that workers give of its handler, before
                it is sent; see check_payload. The log says what that warns of.

        Raises:
            ImportError: when payloads are to be checked, and jsonschema is not installed (gowork-client[schemas]).
            AddressError: when an address is not HOST:PORT, or there are too many.
            CertificateError: when one of the files can't be used.
            ValueError: when the timeout is not positive.
            CodecSetupError: when the keys cannot be used. It is in gowork.client, too.
        """
        if check_payloads:
            need_jsonschema()
        encryption = encryption_of(keys, codec)
        self._settings = CallSettings.of(
            address, os.environ.get(ADDRESS_VARIABLE), timeout, patience, encryption=encryption, tls=tls
        )
        self._connection = Connection(self._settings)
        self._calls = Calls(self._connection, self._settings)
        self._checks = PayloadChecks()
        self._checks_all = check_payloads

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection. Calls that are under way fail; those of an asyncio client are cancelled.

        Every call from then on raises ClientClosed.
        """
        await self._connection.close()

    @property
    def address(self) -> str:
        """The addresses that the client was given: HOST:PORT, several joined by commas."""
        return self._settings.address

    @property
    def schedules(self) -> AsyncSchedules:
        """The calls about schedules, which make tasks again and again."""
        return AsyncSchedules(self, self._connection, self._calls, self._settings, check_payloads=self._checks_all)

    async def members(self) -> list[Member]:
        """Returns the members of the cluster, in the order of their ids.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        request = cluster.MembersRequest(page_size=1000)
        members: list[Member] = []
        while True:
            response = await self._calls.call(self._connection.cluster.Members, request)
            members += map(responses.member, response.members)
            request.page_token = response.next_page_token
            if not request.page_token:
                return members

    async def handlers(self, name: str = "") -> list[HandlerInfo]:
        """Returns the handlers that workers have now, sorted by name: versions, workers, documentation and schemas.

        Callback workers do not tell which handlers they have.

        Args:
            name: the handler to return alone; empty for all.

        Raises:
            InvalidArgument: when `name` cannot be the name of a handler.
            LeaderTooOld: when the leader is older than 0.2.0.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(cluster.ListHandlersRequest, name=name)
        found: list[HandlerInfo] = []
        while True:
            response = await self._calls.call(self._connection.cluster.ListHandlers, request)
            found += map(responses.handler, response.handlers)
            request.page_token = response.next_page_token
            if not request.page_token:
                return found

    async def check_payload(self, payload: object, *, handler: object, plugin_version: str = "") -> str:
        """Checks a payload against the schemas that workers give of a handler, as check_payloads does before each task.

        What the leader told is believed for 30 s. Nothing is checked where the leader cannot tell, or may not.

        Args:
            payload: as for schedule.
            handler: the handler's name, or the function that @handler decorated.
            plugin_version: the versions of the handler's plugin that may run the task; empty for any.

        Returns:
            A warning when no worker has the handler now, with the most similar names, or has it in such a version, or
            when the handler names no such field as the payload has, and may drop it; else an empty text.

        Raises:
            InvalidArgument: when no version of the handler takes the payload. The error names the field.
            ImportError: when jsonschema is not installed, which gowork-client[schemas] brings.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        wanted = requests.version_range(plugin_version)
        return await self._check(requests.handler_name(handler), wanted, *encode_payload(payload))

    async def _check(self, handler: str, wanted: str, text: str, data: bytes, form: int) -> str:
        known = self._checks.get(handler)
        if known is None:
            try:
                found = await self.handlers(handler)
                others = [] if found else [each.name for each in await self.handlers()]
            except (LeaderTooOld, PermissionDenied):
                return ""
            known = self._checks.put(handler, found, others)
        versions, warning = known
        if wanted and versions:
            versions, warning = within(versions, handler, wanted)
        return check(versions, handler, text, data, form) or warning

    async def drain(self, id: str, budget: Duration | None = None) -> None:
        """Takes a worker out of service: it gets no more tasks, finishes what it runs, and leaves.

        Returns when the leader has noted the request, not when the worker has left. A callback worker finishes the
        tasks that it holds, and stays idle until it joins again.

        Args:
            id: the member's id.
            budget: how long the worker may go on with running tasks, in seconds or as timedelta, at most a day. Tasks
                that have not finished by then go back to the queue. None for the worker's own setting.

        Raises:
            NotFound: when no live member has the id.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        await self._calls.call(self._connection.cluster.Drain, requests.drain_request(id, budget))

    async def leaders(self) -> Leaders:
        """Returns the leaders of the cluster, and which one leads. Any leader answers, also while none leads.

        Raises:
            CallError: when the leader refused, or could not be reached, or its log does not answer.
        """
        return responses.leaders(await self._calls.call(self._connection.cluster.Leaders, cluster.LeadersRequest()))

    async def step_down(self, term: int | None = None) -> LeaderInfo:
        """Has the leader that leads hand over to another one. Returns the one that leads then.

        Args:
            term: the term that is to end; None for the present one. When that term is over, nothing changes.

        Raises:
            FailedPrecondition: when no other leader could take over. The term goes on.
            CallError: when no other leader took over in time, or the leader refused otherwise, or could not be reached.
        """
        if term is None:
            # Named, so that a call that is made again ends no second term.
            leading = (await self.leaders()).leading
            term = 0 if leading is None else leading.term
        request = arguments.message(cluster.StepDownRequest, term=term)
        return responses.leader((await self._calls.call(self._connection.cluster.StepDown, request)).leader)

    async def remove_leader(self, store_id: str) -> None:
        """Removes the registration of a leader that will not come back, so that the log keeps nothing for its store.

        Args:
            store_id: the id of its store.

        Raises:
            NotFound: when no such leader is registered.
            FailedPrecondition: when it was seen within the last minute, or is the only one.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(cluster.RemoveLeaderRequest, store_id=store_id)
        await self._calls.call(self._connection.cluster.RemoveLeader, request)

    async def compare_stores(self, index: int = 0) -> StoreComparison:
        """Has each leader make a digest of its store at one entry of the log, and returns what is known of them.

        Digests take a while. Call it again with the index of the first answer until nothing is pending.

        Args:
            index: the index that an earlier call returned; 0 begins a comparison, unless one is under way.

        Raises:
            FailedPrecondition: when the leader shares no log.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(cluster.CompareStoresRequest, index=index)
        return responses.comparison(await self._calls.call(self._connection.cluster.CompareStores, request))

    async def stats(self) -> Stats:
        """Returns how many tasks there are by queue, handler and status, and how many members by liveness.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        return responses.stats(await self._calls.call(self._connection.scheduler.Stats, scheduler.StatsRequest()))

    async def activity(self, *, failures: int = 0) -> Activity:
        """Returns what the queues hold and wait for, and what has happened in them since the leader started.

        It may be asked every second: unlike stats, it costs the same however many finished tasks are kept.

        Args:
            failures: how many of the last tasks that ended with ERROR to return, 0 to 100.

        Raises:
            InvalidArgument: when `failures` is out of these bounds.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.ActivityRequest, failures_max=failures)
        response = await self._calls.call(self._connection.scheduler.Activity, request)
        return responses.activity(response, self._settings.encryption)

    async def explain(self, id: str, *, verbose: bool = False) -> Explanation:
        """Returns why a task has not been started, or why it has ended.

        Args:
            id: the task's id.
            verbose: whether to return also a verdict for each member.

        Raises:
            NotFound: when no task has the id.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.ExplainTaskRequest, id=id, verbose=verbose)
        response = await self._calls.call(self._connection.scheduler.ExplainTask, request)
        return responses.explanation(response, self._settings.encryption)

    async def queues(self) -> list[Queue]:
        """Returns the queues that have waiting or running tasks, or settings of their own, sorted by name.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        response = await self._calls.call(self._connection.scheduler.ListQueues, scheduler.ListQueuesRequest())
        return [responses.queue(queue) for queue in response.queues]

    async def pause_queue(self, name: str) -> None:
        """Pauses a queue: none of its tasks is started until resume_queue. Running tasks go on.

        Raises:
            InvalidArgument: when `name` cannot be the name of a queue.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        await self._calls.call(
            self._connection.scheduler.PauseQueue, arguments.message(scheduler.PauseQueueRequest, name=name)
        )

    async def resume_queue(self, name: str) -> None:
        """Ends the pause of a queue.

        Raises:
            InvalidArgument, CallError: as for pause_queue.
        """
        await self._calls.call(
            self._connection.scheduler.ResumeQueue, arguments.message(scheduler.ResumeQueueRequest, name=name)
        )

    async def configure_queue(
        self,
        name: str,
        *,
        weight: int | None = None,
        concurrency_limit: int | None = None,
        key_concurrency_limit: int | None = None,
        rate_limit: float | None = None,
        rate_burst: int | None = None,
    ) -> Queue:
        """Sets the weight and limits of a queue, and returns it. None keeps a setting; 0 removes a limit.

        Args:
            name: the queue's name. The queue need not have tasks yet.
            weight: its share of the slots, in proportion to those of other queues that have work, 1 to 1,000.
            concurrency_limit: most tasks that run at once.
            key_concurrency_limit: most tasks of one concurrency key that run at once.
            rate_limit: most tasks that are started per second, on average.
            rate_burst: most tasks that are started at once under the rate; 0 for those of one second, at least 1.

        Raises:
            InvalidArgument: when a field is at fault.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(
            scheduler.ConfigureQueueRequest,
            name=name,
            weight=weight,
            concurrency_limit=concurrency_limit,
            key_concurrency_limit=key_concurrency_limit,
            rate_limit=rate_limit,
            rate_burst=rate_burst,
        )
        return responses.queue((await self._calls.call(self._connection.scheduler.ConfigureQueue, request)).queue)

    async def retry(self, id: str, *, payload: object = KEEP, handler: object = None) -> None:
        """Runs a task that ended with ERROR or CANCELLED again, as if it were new. Its attempts stay on record.

        A pending or running task is left as it is. When a leader goes away during the call, and may have run the task
        again, the call is not repeated, because the task could run twice. It raises LeaderUnreachable.

        Args:
            id: the task's id.
            payload: what the task works on from now on, as for schedule; not given: what it worked on. With another
                payload or handler the task goes behind those that wait already, and TaskInfo.changed_fields tells of
                it.
            handler: the name of the handler that runs it from now on, or the function that @handler decorated; None
                for the one that it has.

        Raises:
            InvalidArgument: when the payload or the handler cannot be sent, or the task is encrypted and the client has
                no key.
            NotFound: when no task has the id.
            FailedPrecondition: when the task has completed or expired; with another payload or handler also when it is
                pending or running.
            LeaderTooOld: when the leader would drop the payload or the handler.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.RetryTaskRequest, id=id)
        if payload is not KEEP or handler is not None:
            await self._edit(request, payload, None if handler is None else requests.handler_name(handler))
            await self._calls.fit(lambda leader: leader.check(request, self.address))
        await self._calls.send_once(self._connection.scheduler.RetryTask, request)

    async def _edit(self, request: scheduler.RetryTaskRequest, payload: object, handler: str | None) -> None:
        """Fills in with what a task is to run again. It may have to be encrypted as the task is."""
        response = await self._calls.call(self._connection.scheduler.GetTask, scheduler.GetTaskRequest(id=request.id))
        known, keeps = response.task, payload is KEEP
        task = arguments.message(scheduler.Task, id=known.id, handler=known.handler if handler is None else handler)
        if not keeps:
            task.payload, task.data, task.payload_form = encode_payload(payload)  # type: ignore[assignment] # The number of the enum's value.
        rewrite(known, task, self._settings.encryption, keeps_payload=keeps)
        if handler is not None:
            request.handler = handler
        if task.data:
            request.data = task.data
        elif task.payload or not keeps:
            request.payload = task.payload
        request.payload_form = task.payload_form

    async def purge(
        self,
        ids: Iterable[str] = (),
        *,
        filter: str = "",
        older_than: Duration = 0,
        **terms: Unpack[TaskFilter],
    ) -> int:
        """Removes finished tasks and their results at once, before retention does. Returns how many.

        Args:
            ids: the tasks' ids; unknown ones are skipped. Give ids or a filter, not both.
            filter: as for tasks. Unfinished tasks are skipped.
            older_than: with a filter, removes only tasks that finished at least this long ago, in seconds.
            terms: as for tasks.

        Raises:
            InvalidArgument: when neither ids nor a filter are given, or both, or the filter does not parse.
            FailedPrecondition: when the task of an id has not finished. Ids are sent in calls of 10,000. No task of
                that call is removed.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        purged = 0
        for request in requests.purge_requests(ids, filter_expression(filter, terms), older_than):
            while True:
                response = await self._calls.call(self._connection.scheduler.PurgeTasks, request)
                purged += response.purged
                if not response.more:
                    break
        return purged

    async def backup(self, path: str | PathLike[str], progress: Callable[[int, int], object] | None = None) -> None:
        """Writes a copy of the leader's store, as it is at one moment, to a new file.

        `gowork-leader --restore` starts a leader from it. An asyncio client writes the file in a thread, because to
        make a large file durable takes seconds. It calls `progress` in that thread.

        Args:
            path: the file. It has this name only when it is complete.
            progress: called with the number of bytes received so far, and that of all bytes.

        Raises:
            FileExistsError: when the path exists.
            CallError: when the leader refused, or could not be reached, or the copy broke off.
        """
        self._settings.check_open()
        tries = Tries(self._settings)
        with await blocking(BackupFile, path) as file:
            while True:
                self._settings.check_open()
                address = self._settings.rotation.current
                try:
                    async for response in self._connection.scheduler.BackupStore(scheduler.BackupStoreRequest()):
                        await blocking(file.take, response, progress)
                    await blocking(file.finish)
                    return
                except grpc.RpcError as error:
                    if file.has_begun:
                        raise self._settings.error_of(error, address) from error
                    pause = tries.pause_after(error, address)
                await asyncio.sleep(pause)
