"""Scripts that set up what is seen of an episode, in a container that looks at it.

They run with the image's programs. The tree of the episode's files is at
/run/cycleqd/tree, and an empty folder on a disk at /run/cycleqd/layer. Nothing of the
tree is executed before the right to mount is given up. The first argument begins each
line that is for us, on the error output; our answers come as input.
"""

import shlex

_COMMON = r"""
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin
word=$1; shift
exec 3>&2 4<&0 2>&1 </dev/null
tree=/run/cycleqd/tree look=/run/cycleqd/look layer=/run/cycleqd/layer
say() { printf '%s %s\n' "$word" "$1" >&3; }
fail() { say "$1"; exit 0; }
need() { "$@" || fail "failed: $*"; }
no_link() { [ -e "$1" ] && [ "$(readlink -f -- "$1")" = "$1" ]; }
show() {  # the tree, under a layer that is thrown away
    need mount -o "remount,bind,ro,$1" $tree
    need mkdir $look $layer/upper $layer/work
    local folders=lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work
    need mount -t overlay -o "$1,$folders" overlay $look
}
kernel() {
    for name in proc dev sys; do
        { [ -d $tree/$name ] && no_link $tree/$name; } || fail "/$name was removed"
        need mount --rbind /$name $look/$name
    done
}
# Programs have the same rights as process 1, or they could not look at it in /proc.
without_mounting() { exec setpriv --bounding-set=-sys_admin -- "$@"; }
"""
# Arguments: flags of the mount, files of the system that are shown as the episode left
# them, "--", variables, a command. With the flags "none" it sees the image alone.
LOOK = (
    _COMMON
    + r"""
shopt -s nullglob
over() {  # the image's own, where the episode left the same kind of thing
    if [ -L "$1" ]; then
        { [ -L "$tree$1" ] && [ "$(readlink "$1")" = "$(readlink "$tree$1")" ]; } ||
            fail "$1 was changed"
        return
    fi
    if [ -d "$1" ]; then
        [ -d "$tree$1" ] || fail "$1 was removed"
    elif [ -e "$1" ]; then
        [ -f "$tree$1" ] || fail "$1 was removed"
    elif [ -e "$tree$1" ] || [ -L "$tree$1" ]; then
        fail "$1 was added"
    else
        return
    fi
    no_link "$tree$1" || fail "$1 was changed"
    need mount --bind "$1" "$look$1"
}
steering() {  # of /etc: what programs obey
    for path in "$1"/etc/{ld.so.*,alternatives,nsswitch.conf,environment,security} \
        "$1"/etc/{locale.alias,pam.*,sudo.conf,python[0-9]*}; do
        over "${path#"$tree"}"
    done
}
programs() {
    local libraries='lib lib32 lib64 libx32'
    no_link $tree/etc || fail "/etc was removed"
    no_link $tree/usr || fail "/usr was removed"
    for name in bin sbin $libraries; do over /$name; done
    for name in bin sbin libexec etc local/lib $libraries; do over /usr/$name; done
    for name in /usr/ /usr/local/ /usr/local/bin/; do over ${name}pyvenv.cfg; done
    for folder in /usr/local/bin /usr/local/sbin; do
        [ ! -e $tree$folder ] || no_link $tree$folder || fail "$folder was changed"
        for path in $folder/*; do over "$path"; done
    done
    steering ""
    steering $tree
}
managed() {  # files that the engine keeps elsewhere
    for path in /run/cycleqd/etc/*; do
        name=/etc/${path##*/}
        if [ -f $tree$name ] && no_link $tree$name; then
            need mount -o bind,ro $path $look$name
        fi
    done
}
if [ "$1" = none ]; then
    look=/
    shift
else
    show "$1"
    shift
    programs
    while [ "$1" != -- ]; do
        { [ -f "$tree$1" ] && no_link "$tree$1"; } || fail "$1 was removed"
        need mount --bind "$tree$1" "$look$1"
        shift
    done
    managed
    kernel
fi
shift
say ready
without_mounting chroot $look env -i "$@"
"""
)
_SERVE = r"""
while IFS= read -r line <&4; do
    mapfile -d '' -t words < <(printf %s "$line" | base64 -d)
    chroot $1 env -i "${words[@]}" 2>/dev/null 3>&- 4<&- | head -c 65536 | base64 -w0
    echo " ${PIPESTATUS[0]}"
done
"""
# Each line of its input is a program: variables and words, in base 64. It prints the
# program's output in base 64, and its status.
WORLD = (
    _COMMON
    + f"""
show nodev
kernel
say ready
without_mounting bash -c {shlex.quote(_SERVE)} bash $look
"""
)
# Prints the status of reading the file, and PATH.
SOURCE = r"""
exec 8>&1 >/dev/null 2>&1
builtin source ~/.bashrc
status=$?
exec >&8
builtin printf "%s %s" "$status" "$PATH"
"""
# Finds a program as a shell with this PATH does.
CALL = 'PATH=$1; shift; "$@"'
# A function that has a program, NAME, run in the episode's world.
STUB = r"""() {
    local said status
    builtin printf '%s ask %s\n' "$CYCLEQD_WORD" "$(
        builtin printf '%s\0' "$PATH" NAME "$@" | /usr/bin/base64 -w0)" >&3
    builtin read -r status said <&4 || return 1
    builtin printf %s "$said" | /usr/bin/base64 -d
    return "$status"
}"""
# `runuser -l USER -c COMMAND`: the account is read as data, nothing of its login is.
LOGIN = r"""() {
    local uid gid groups
    [ "$#$1$3" = 4-l-c ] || return 1
    uid=$(id -u -- "$2") && gid=$(id -g -- "$2") && groups=$(id -G -- "$2") || return 1
    setpriv --reuid="$uid" --regid="$gid" --groups="${groups// /,}" -- bash -c "$4"
}"""
