// SPDX-License-Identifier: Apache-2.0
// How client and daemon sleep and wake (docs/protocol.md, section 6), for spin: whatever the interleaving, nobody sleeps
// while there is something for it to do, and every operation is completed and taken. The code it stands for:
//   client   libiokv/submission_ring.cpp (publish, daemon_sleeps), completion_ring.cpp (advance, arm), reap.cpp (wait)
//   client with -DEVENT_LOOP: one that polls iokv_fd(), and whose iokv_reap never waits
//   daemon   daemon/session/session.cpp (publish, arm), daemon/exchange.cpp (pass), daemon/service.cpp (sleep)
//
// Memory: every shared word has one writer. A store goes to the writer's own copy, and becomes visible to the other side at
// any time later and in any order (weaker than x86), unless a fence makes all of the writer's stores visible at once.
// Doorbells are packets on a socket: ordered by the kernel, and one is as good as many. NEED_ROOM is NEED_WAKEUP with the
// submission head in the place of the completion tail, and not modelled again.
//
// tests/wire checks this file, and that each of the mistakes below, defined with -D, is found:
//   SUBMIT_WITHOUT_FENCE  REAP_WITHOUT_FENCE  CLIENT_SLEEPS_WITHOUT_FENCE  CLIENT_SLEEPS_WITHOUT_LOOKING
//   POST_WITHOUT_FENCE    DAEMON_SLEEPS_WITHOUT_FENCE  DAEMON_SLEEPS_WITHOUT_LOOKING  DAEMON_IGNORES_HEADS
//   REAP_WITHOUT_RINGING  EVENT_LOOP_ARMS_WITHOUT_FENCE  EVENT_LOOP_ARMS_WITHOUT_LOOKING
//   EVENT_LOOP_DRAINS_WITHOUT_LOOKING

#if defined(EVENT_LOOP_ARMS_WITHOUT_FENCE) || defined(EVENT_LOOP_ARMS_WITHOUT_LOOKING) || \
    defined(EVENT_LOOP_DRAINS_WITHOUT_LOOKING)
#define EVENT_LOOP
#endif

#define OPERATIONS 3
#define CAPACITY 2  /* completions that an event loop asks for in one call */
#define ROOM 1  /* completions that fit the ring: the daemon has to wait for the client */

// As the other side sees them, and as their writers have stored them.
byte tail, own_tail;                    // up: operations announced
byte head, own_head;                    // up: completions taken
bool client_sleeps, own_client_sleeps;  // up: NEED_WAKEUP
byte posted, own_posted;                // down: completions announced
bool daemon_sleeps, own_daemon_sleeps;  // down: NEED_WAKEUP
bool wants_reap, own_wants_reap;        // down: NEED_REAP
bool daemon_bell, client_bell;

inline client_fence() {
  atomic { tail = own_tail; head = own_head; client_sleeps = own_client_sleeps }
}
inline daemon_fence() {
  atomic { posted = own_posted; daemon_sleeps = own_daemon_sleeps; wants_reap = own_wants_reap }
}

// Stores become visible when they like.
active proctype memory() {
end:
  do
  :: tail != own_tail -> tail = own_tail
  :: head != own_head -> head = own_head
  :: client_sleeps != own_client_sleeps -> client_sleeps = own_client_sleeps
  :: posted != own_posted -> posted = own_posted
  :: daemon_sleeps != own_daemon_sleeps -> daemon_sleeps = own_daemon_sleeps
  :: wants_reap != own_wants_reap -> wants_reap = own_wants_reap
  od
}

inline submit() {
  own_tail++;
#ifndef SUBMIT_WITHOUT_FENCE
  client_fence();
#endif
  if
  :: daemon_sleeps -> daemon_bell = true
  :: else
  fi
}

inline take(count) {
  own_head = own_head + count;
#ifndef REAP_WITHOUT_FENCE
  client_fence();
#endif
#ifndef REAP_WITHOUT_RINGING
  if
  :: wants_reap -> daemon_bell = true
  :: else
  fi
#endif
}

#ifndef EVENT_LOOP
active proctype client() {
  do
  :: own_tail < OPERATIONS -> submit()
  :: posted > own_head -> take(1)
  :: own_head < own_tail ->  // something is outstanding: sleep
    own_client_sleeps = true;
#ifndef CLIENT_SLEEPS_WITHOUT_FENCE
    client_fence();
#endif
    if
#ifndef CLIENT_SLEEPS_WITHOUT_LOOKING
    :: posted > own_head
    :: posted <= own_head ->
#else
    :: true ->
#endif
      client_bell; client_bell = false
    fi;
    own_client_sleeps = false
  :: own_head == OPERATIONS -> break
  od
  assert(own_tail == OPERATIONS && own_posted == OPERATIONS)
}
#else

// What there is, as far as it was asked for.
inline take_ready() {
  late = posted - own_head;
  if
  :: late > CAPACITY - count -> late = CAPACITY - count
  :: else
  fi;
  if
  :: late > 0 -> take(late)
  :: else
  fi;
  count = count + late
}

// reap.cpp's: armed when there was less than asked for.
inline take_and_arm() {
  take_ready();
  do
  :: count < CAPACITY ->
    own_client_sleeps = true;
#ifndef EVENT_LOOP_ARMS_WITHOUT_FENCE
    client_fence();
#endif
#ifndef EVENT_LOOP_ARMS_WITHOUT_LOOKING
    take_ready();
#else
    late = 0;
#endif
    if
    :: late == 0 -> break
    :: else
    fi
  :: else ->
    own_client_sleeps = false;
    client_fence();
    break
  od
}

// iokv_reap with timeout 0: a doorbell stays in the socket until a call that finds nothing.
inline reap() {
  count = 0;
  if
  :: own_client_sleeps && posted > own_head -> own_client_sleeps = false; client_fence()
  :: else
  fi;
  take_and_arm();
  if
  :: count == 0 ->
    client_bell = false;
#ifndef EVENT_LOOP_DRAINS_WITHOUT_LOOKING
    take_and_arm()
#endif
  :: else
  fi
}

active proctype client() {
  byte count = CAPACITY, late;
  do
  :: own_tail < OPERATIONS -> submit()
  :: count == CAPACITY -> reap()                                           // the last call may have left some
  :: count < CAPACITY && own_head < own_tail -> client_bell; reap()        // poll says readable
  :: own_head == OPERATIONS -> break
  od
  assert(own_tail == OPERATIONS && own_posted == OPERATIONS)
}
#endif

active proctype daemon() {
  byte taken, seen_head, before;
  do
  :: true ->  // a pass: look, post what there is room for, publish
    before = own_posted;
    taken = tail;
    seen_head = head;
    assert(own_posted - seen_head <= ROOM && taken >= own_posted);
    do
    :: own_posted < taken && own_posted - seen_head < ROOM -> own_posted++
    :: else -> break
    od;
    if
    :: own_posted != before ->
#ifndef POST_WITHOUT_FENCE
      daemon_fence();
#endif
      if
      :: client_sleeps -> client_bell = true
      :: else
      fi
    :: else ->  // nothing was done: sleep
      own_daemon_sleeps = true;
      own_wants_reap = own_posted < taken;
#ifndef DAEMON_SLEEPS_WITHOUT_FENCE
      daemon_fence();
#endif
      if
#ifndef DAEMON_SLEEPS_WITHOUT_LOOKING
      :: tail != taken
#ifndef DAEMON_IGNORES_HEADS
      :: tail == taken && own_wants_reap && head != seen_head
      :: tail == taken && !(own_wants_reap && head != seen_head) ->
#else
      :: tail == taken ->
#endif
#else
      :: true ->
#endif
end_asleep:
        daemon_bell; daemon_bell = false
      fi;
      own_daemon_sleeps = false;
      own_wants_reap = false
    fi
  od
}
