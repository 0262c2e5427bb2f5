#!/bin/sh
# Stands in for podman and docker: a "container" is a process in a session of its own, as it is with an engine.
# $STAND_IN is a folder: calls are noted in `calls`, and the process of each container in a file of its name.
printf '%s\n' "$*" >>"$STAND_IN/calls"
word=$1
shift
case $word in
  run)
    name= environment=
    while :; do
      case $1 in
        --name=*) name=${1#--name=} ;;
        --env=*) export "${1#--env=}" ;;
        --*) ;;
        *) break ;;
      esac
      shift
    done
    image=$1
    shift
    case $image in
      */absent*) echo "no such image" >&2; exit 125 ;;
      */pulled*) echo $$ >"$STAND_IN/pulling"; exec tail -f /dev/null ;;
    esac
    # Standard input goes along, although the process runs in the background.
    exec 3<&0
    setsid sh -c 'echo $$ >"$STAND_IN/$0"; exec "$@"' "$name" "$@" <&3 3<&- &
    wait $!
    code=$?
    rm -f "$STAND_IN/$name"
    exit $code ;;
  stop)
    [ "$1" = -t ] && shift 2
    pid=$(cat "$STAND_IN/$1") || exit 1
    kill -TERM "-$pid" ;;
  rm)
    [ "$1" = --force ] && shift
    if pid=$(cat "$STAND_IN/$1" 2>/dev/null); then kill -KILL "-$pid" 2>/dev/null; rm -f "$STAND_IN/$1"; fi
    exit 0 ;;
esac
