"""The engine of a server: many requests in the slots of one cache, a step at a time.

          submit                      step: decode, admit, read
    request -----> Queue --take a slot--> reading --first token--> running --> Ended
                     |     (what it shares    | a chunk or a part of     | one token of each
                     |      is not read)      | a picture a step         | running answer a step
                     `------------------- cancel: the slot is free at once ----------'

A step is bounded, so answers that grow are never held up by a long prompt for more than a chunk. Nothing here prints or
runs in the background, but for pictures, which a CPU encodes beside the steps (`inference.looking`): whoever owns the
engine calls `step` and hands on the events.
"""

from __future__ import annotations

from itertools import count

import torch

from internvl.data.image import Normalisation
from internvl.errors import ContextOverflow, PlaceholderMismatch, UsageError
from internvl.inference.chat import context
from internvl.inference.draft import next_tokens
from internvl.inference.events import Counters, Ended, EngineConfig, Event, Failed, Spoke
from internvl.inference.looking import encoding
from internvl.inference.rows import not_numbers
from internvl.inference.sampling import Token
from internvl.inference.schedule import Job, Queue, QueueFull, Request
from internvl.inference.seen import Features, keys_of, shared_prefix
from internvl.inference.slots import Slot, Slots, SomeRows
from internvl.models.chat import ChatModel

__all__ = ["Counters", "Ended", "Engine", "EngineConfig", "Event", "Failed", "QueueFull", "Request", "Spoke"]

READERS = 4
"""Prompts of equal priority that are read by turns; a short one passes a long one, which keeps every other step."""
WORTH_WAITING = 16
"""Tokens: who could have so many more from a prompt that is being read waits for it."""


class Engine:
    """Serves requests over the slots of one cache.

    >>> engine = Engine(model, encoder.config.normalisation)          # doctest: +SKIP
    >>> engine.submit(Request(ids=ids, stop_ids=encoder.stop_ids))    # doctest: +SKIP
    0
    >>> while engine.busy: print(engine.step())                       # doctest: +SKIP
    [Spoke(id=0, answer=0, token=Token(id=17, logprob=-0.1))]
    """

    def __init__(
        self, model: ChatModel, features: Features | Normalisation, config: EngineConfig | None = None
    ) -> None:
        """features: the pictures' memory, or how to normalise tiles for a memory of its own."""
        self.config = config or EngineConfig()
        text = model.config.text
        if text.rope is not None and text.rope.per_call:
            raise UsageError("compat='original' turns all rows of a call by the longest; load the model without it")
        self.max_len = min(self.config.max_len, context(text))
        """Tokens that a prompt and its answer may have together."""
        self._model = model.eval()
        self._features = (
            Features(model, features, most_tiles=self.config.kept_tiles) if isinstance(features, str) else features
        )
        self._encoding = encoding(model, self._features, always_alike=self.config.deterministic)
        grain = self.config.chunk if self.config.deterministic else None
        self._slots = Slots(model, self.config.slots, self.max_len, grain=grain, reuse=self.config.reuse)
        self._ids = count()
        self._jobs: dict[int, Job] = {}
        self._queue = Queue()
        self._reading: list[Job] = []
        self._running: dict[int, tuple[Job, int]] = {}
        """Slot -> whose answer grows in it."""
        self._steps = 0
        self._done = dict.fromkeys(("read", "reused", "generated", "ended", "failed", "cancelled"), 0)

    # ---- requests ----------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> int:
        """Queue a request; its id is in all its events. What can never be answered is refused here."""
        self._check(request)
        tiles, waiting = sum(len(tiles) for _, tiles in request.pictures), self._waiting_tiles()
        if len(self._queue) >= self.config.queue:
            raise QueueFull(f"{len(self._queue)} requests wait, as many as may; ask again later")
        if waiting + tiles > self.config.waiting_tiles:
            raise QueueFull(
                f"{waiting} tiles wait and {tiles} came, but {self.config.waiting_tiles} may wait; ask again later"
            )
        config = self._model.config
        keys = keys_of(request.ids, config.image_token, config.slots_per_tile, request.pictures)
        job = Job(next(self._ids), request, keys, self._encoding, config.slots_per_tile)
        self._jobs[job.id] = job
        self._queue.add(job)
        return job.id

    def cancel(self, id: int, answer: int | None = None) -> bool:
        """Drop a request, wherever it is, or one of its answers that already grow. False: there is none (any more)."""
        job = self._jobs.get(id)
        if job is None:
            return False
        if answer is not None and (answer not in job.drafts or job in self._reading):
            return False
        if answer is not None and len(job.drafts) > 1:
            self._leave(job, answer)
            return True
        self._drop(job)
        self._done["cancelled"] += 1
        return True

    def reused(self, id: int) -> int:
        """Tokens of the prompt of a request in flight that did not have to be read; 0 before it has a slot."""
        job = self._jobs.get(id)
        return job.reused if job else 0

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One more token of every running answer, and one chunk of what is to be read; what came of it."""
        self._steps += 1
        self._encoding.make_room(for_step=True)
        events = self._decode()
        events += self._admit()
        self._encoding.make_room()
        return events + self._read()

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._jobs)

    def counters(self) -> Counters:
        return Counters(
            queued=len(self._queue),
            reading=len(self._reading),
            running=len(self._running),
            slots=self.config.slots,
            free=self._slots.free,
            waiting_tiles=self._waiting_tiles(),
            picture_hits=self._features.hits,
            picture_misses=self._features.misses,
            kept_tiles=self._features.tiles,
            **self._done,
        )

    def _waiting_tiles(self) -> int:
        return sum(job.looking.tiles for job in self._jobs.values())

    def _check(self, request: Request) -> None:
        config, most = self._model.config, min(self.config.slots, self.config.per_user or self.config.slots)
        ids, new = request.ids, request.sampling.max_new_tokens
        if request.sampling.beams > 1:
            raise UsageError("a beam search has no next token before it ends; the engine answers with beams=1")
        if not 1 <= request.n <= most:
            raise UsageError(f"n is {request.n}; it must be 1 to {most}, the answers that can grow at a time")
        if not len(ids):
            raise UsageError("the prompt has no tokens; there is nothing to continue")
        unknown = next((one for one in ids if not 0 <= one < config.text.vocab and one != config.image_token), None)
        if unknown is not None:
            raise UsageError(f"the prompt has the id {unknown}; the model knows 0 to {config.text.vocab - 1}")
        if len(ids) + new > self.max_len:
            error = ContextOverflow(
                f"the prompt has {len(ids)} tokens and the answer may have {new}, but together they can have "
                f"{self.max_len}; shorten the prompt, or lower max_new_tokens"
            )
            error.tokens = len(ids)
            raise error
        tiles = sum(len(tiles) for _, tiles in request.pictures)
        if tiles > self.config.waiting_tiles:
            raise UsageError(f"the pictures have {tiles} tiles; a request may bring {self.config.waiting_tiles}")
        slots, given = sum(one == config.image_token for one in ids), tiles * config.slots_per_tile
        if slots != given:
            raise PlaceholderMismatch(
                f"the prompt has {slots} image slots but its pictures fill {given}; give the pictures it was made for"
            )

    # ---- a step ------------------------------------------------------------------------------------------------------

    def _admit(self) -> list[Event]:
        """Give slots to those whose turn it is."""
        events: list[Event] = []
        while (job := self._queue.first(self._may_enter)) is not None:
            request = job.request
            if self._slots.free < request.n or (len(self._reading) >= READERS and not self._urgent(job)):
                break
            self._queue.pop(job)
            try:
                job.drafts = {answer: request.draft(answer) for answer in range(request.n)}
            except Exception as error:
                events.append(self._fail(job, error))
                continue
            slot, job.reused = self._slots.take(job.keys)
            job.slots = [slot, *(self._slots.reserve() for _ in range(request.n - 1))]
            job.at = job.reused
            self._reading.append(job)
            self._done["reused"] += job.reused
        return events

    def _may_enter(self, job: Job) -> bool:
        """Whether it may be a job's turn; those who wait for what another reads are passed over until it is read."""
        return self._has_share(job) and (self._urgent(job) or not self._soon_shared(job))

    def _urgent(self, job: Job) -> bool:
        return all(job.request.priority > other.request.priority for other in self._reading)

    def _has_share(self, job: Job) -> bool:
        """Whether a job's user would have no more slots than a user may."""
        if self.config.per_user is None:
            return True
        user = job.request.user
        has = sum(other.request.user == user for other, _ in self._running.values())
        has += sum(other.request.n for other in self._reading if other.request.user == user)
        return has + job.request.n <= self.config.per_user

    def _soon_shared(self, job: Job) -> bool:
        """Whether one who reads now will soon hold more of this prompt than any slot does."""
        if not self.config.reuse:
            return False
        soon = max((shared_prefix(job.keys, other.keys) for other in self._reading), default=0)
        return soon >= WORTH_WAITING and soon - self._slots.most_common(job.keys) >= WORTH_WAITING

    def _read(self) -> list[Event]:
        """One chunk of prompts, or one part of a picture; pictures that are encoded beside cost no time here."""
        events: list[Event] = []
        budget = self.config.chunk
        while self._reading and budget > 0:
            job = self._reader(budget)
            if job is None:
                break
            if isinstance(job, Failed):
                events.append(job)
                continue
            try:
                budget -= self._advance(job, self._next(job, budget))
                if not job.left:
                    events += self._begin(job)
            except Exception as error:
                events.append(self._fail(job, error))
        if self._reading and not self._running and budget == self.config.chunk:  # there is nothing else to do
            self._encoding.wait()
        return events

    def _reader(self, budget: int) -> Job | Failed | None:
        """Who reads, if it is anyone's turn: whose pictures are there, and who has room for its next chunk. Or who
        cannot go on.

        Of the highest priority it is the one with least to read, and every other step the first.
        """
        highest = max(job.request.priority for job in self._reading)
        jobs = [job for job in self._reading if job.request.priority == highest]
        for job in jobs if self._steps % 2 else sorted(jobs, key=lambda job: job.left):
            size = self._next(job, budget)
            slots = job.image_slots(job.at), job.image_slots(job.at + size)
            try:
                if job.looking.ready(*slots, alone=not self._running):
                    return job if size <= budget else None
            except Exception as error:
                return self._fail(job, error)
            if not self._encoding.goes_on:
                return None
        return None

    def _next(self, job: Job, budget: int) -> int:
        """Tokens of its next chunk."""
        return min(self.config.chunk if self.config.deterministic else budget, job.left)

    def _advance(self, job: Job, size: int) -> int:
        """Read so many tokens of a prompt, whose pictures are encoded; how many."""
        start, stop = job.at, job.at + size
        [slot, *_], model = job.slots, self._model
        ids = torch.tensor([job.request.ids[start:stop]], device=self._slots.cache.lengths.device)
        seen = job.looking.fill(job.image_slots(start), job.image_slots(stop))
        hidden = model.hidden(ids, seen, cache=SomeRows(self._slots.cache, [slot]))
        if not bool(hidden.isfinite().all()):
            raise not_numbers(hidden.dtype)
        if slot.exact == start and size == self.config.chunk:
            slot.exact = stop
        slot.keys += job.keys[start:stop]
        job.at = stop
        self._done["read"] += size
        if not job.left:
            job.logits = model.language_model.logits(hidden[:, -1])
        return size

    def _begin(self, job: Job) -> list[Event]:
        """The prompt is read: every answer has a slot of its own and says its first token."""
        self._reading.remove(job)
        first, *others = job.slots
        for slot in others:
            self._slots.fork(first, slot)
        for answer, slot in enumerate(job.slots):
            self._running[slot.index] = job, answer
        assert job.logits is not None
        logits, job.logits = job.logits.expand(len(job.slots), -1), None
        outcomes = next_tokens(logits, job.drafts)
        job.forget_prompt()
        return [event for answer, said in outcomes.items() for event in self._say(job, answer, said)]

    def _decode(self) -> list[Event]:
        """One more token of every running answer."""
        events: list[Event] = []
        if self.config.deterministic and self._model.config.text.experts is None:
            groups = [list(self._slots.all)]
        elif self.config.deterministic:  # how many tokens an expert is given depends on the neighbours
            groups = [[slot] for slot in self._slots.all]
        else:
            groups = [[self._slots.all[index] for index in sorted(self._running)]]
        for group in groups:
            events += self._decode_together(group)
        return events

    def _decode_together(self, group: list[Slot]) -> list[Event]:
        """A step of some slots. Those in which no answer grows read a token beside what they hold, unheard."""
        running = {row: self._running[slot.index] for row, slot in enumerate(group) if slot.index in self._running}
        if not running:
            return []
        last = [running[row][0].drafts[running[row][1]].ids[-1] if row in running else 0 for row in range(len(group))]
        rows = SomeRows(self._slots.cache, group, whole=self.config.deterministic)
        try:
            logits = self._model.step(torch.tensor(last, device=rows.lengths.device)[:, None], cache=rows)
        except Exception as error:
            if len(running) > 1 and not self.config.deterministic:  # whose fault it is shows when each goes alone
                return [event for row in running for event in self._decode_together([group[row]])]
            return [self._fail(job, error) for job in dict.fromkeys(job for job, _ in running.values())]
        for row in running:
            group[row].keys.append(last[row])
        outcomes = next_tokens(logits, {row: job.drafts[answer] for row, (job, answer) in running.items()})
        return [event for row, said in outcomes.items() for event in self._say(*running[row], said)]

    # ---- answers -----------------------------------------------------------------------------------------------------

    def _say(self, job: Job, answer: int, said: Token | Exception) -> list[Event]:
        """Take the next token of an answer, or what went wrong with it."""
        if job.id not in self._jobs:  # another of its answers failed in this very step
            return []
        draft = job.drafts[answer]
        try:
            if isinstance(said, Exception):
                raise said
            finish = draft.add(said.id)
        except Exception as error:
            return [self._fail(job, error)]
        self._done["generated"] += 1
        events: list[Event] = [Spoke(job.id, answer, said, silent=said.id in draft.stop_ids)]
        if finish is not None:
            self._leave(job, answer)
            self._done["ended"] += not job.drafts
            events.append(Ended(job.id, answer, finish, job.reused, last=not job.drafts))
        return events

    def _leave(self, job: Job, answer: int) -> None:
        """An answer is over and its slot free; with the last one the request is over."""
        slot = job.slots[answer]
        self._running.pop(slot.index, None)
        self._slots.release(slot)
        del job.drafts[answer]
        if not job.drafts:
            del self._jobs[job.id]

    def _fail(self, job: Job, error: Exception) -> Failed:
        for slot in self._drop(job):
            self._slots.wipe(slot)
        self._done["failed"] += 1
        return Failed(job.id, error)

    def _drop(self, job: Job) -> list[Slot]:
        """Forget a job, wherever it is. Returns the slots that it had until now."""
        self._queue.remove(job)
        if job in self._reading:
            self._reading.remove(job)
        had = [job.slots[answer] for answer in job.drafts if answer < len(job.slots)]
        for slot in had:
            self._running.pop(slot.index, None)
            self._slots.release(slot)
        del self._jobs[job.id]
        return had
