"""A Python that has loaded its libraries already: in a fork of it a script starts in a fifth of the time.

    python warm.py SOCKET                     serves, until its standard input ends
    python -S warm.py SOCKET script.py ...    does what `python script.py ...` does

The script's own modules are read anew in each fork, from its folder.
"""

import contextlib
import json
import os
import select
import socket
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def ask(path, arguments):
    """The exit code of a script that the server runs with the arguments, folder, environment and streams of
    this process."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(request)
        answer = server.recv(1)
    return answer[0] if answer else 1  # killed


def serve(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        load_libraries()
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os._exit(run(client))
            client.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def load_libraries():
    """Loads what the scripts that need no TensorFlow load, and forgets their own modules."""
    sys.path[0] = ROOT
    import predict  # noqa: F401
    import stamps  # noqa: F401

    own = [name for name, module in sys.modules.items() if in_project(getattr(module, "__file__", None))]
    for name in own:
        del sys.modules[name]


def in_project(path):
    return bool(path) and path.startswith(f"{ROOT}/") and "site-packages" not in path


def run(client):
    """Runs the script that a client asks for; its exit code."""
    import runpy
    import traceback

    size, streams, _, _ = socket.recv_fds(client, 4, 3)
    with client.makefile("rb") as file:
        sys.argv, folder, environment = json.loads(file.read(int.from_bytes(size, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", errors="backslashreplace", buffering=1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(bytes([code]))
    return code


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    elif sys.argv[2].startswith("-"):  # -m, say
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
