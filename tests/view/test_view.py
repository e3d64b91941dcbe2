"""The page: its numbers, its manners, and what a browser makes of it."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mae_jax.data.index import Index
from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import Profiles
from mae_jax.view.screen import Screen
from mae_jax.view.server import ViewServer
from mae_jax.viz.projection import project_2d

MakeProfiles = Callable[..., Profiles]


def get(server: ViewServer, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    headers = {} if host is None else {"Host": host}
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_neighbors_are_those_of_highest_cosine(make_profiles: MakeProfiles) -> None:
    profiles = make_profiles()
    screen = Screen(profiles, method="pca")
    x = profiles.features.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x @ x[5]
    cosine[5] = -2
    wanted = np.argsort(-cosine)[:8]
    found = screen.maps[0].neighbors(5)
    assert [well for well, _ in found] == wanted.tolist()
    np.testing.assert_allclose([c for _, c in found], cosine[wanted], atol=1e-5)
    genes = profiles.metadata["Metadata_Gene"]
    assert {genes[well] for well, _ in found} == {genes[5]}


def test_distance_from_the_plates_own_controls(make_profiles: MakeProfiles) -> None:
    profiles = make_profiles()
    projection = Screen(profiles, method="pca").maps[0].project()
    distance = projection.values["distance from negative controls"]
    control = (profiles.metadata["Metadata_ControlType"] == "negcon").to_numpy()
    assert distance[control].max() < distance[~control].min()


def test_summary_places_wells_on_their_plates(make_profiles: MakeProfiles) -> None:
    summary = Screen(make_profiles(), method="pca").summary()
    grid = summary["grid"]
    assert (grid["height"], grid["width"]) == (8, 12)
    assert (grid["rows"][13], grid["columns"][13]) == (1, 1)  # B02
    plate = summary["columns"]["Metadata_Plate"]
    assert [plate["values"][code] for code in plate["codes"]] == ["P1"] * 24 + ["P2"] * 24
    assert json.dumps(summary)


def test_projection_fills_the_unit_square(make_profiles: MakeProfiles) -> None:
    embedding = Screen(make_profiles(), method="pca").maps[0]
    assert embedding.state()["ready"] is False
    embedding.start().join()
    state = embedding.state()
    assert state["ready"]
    assert min(state["x"]) == min(state["y"]) == 0
    assert max(*state["x"], *state["y"]) == 1
    assert json.dumps(state)


def test_a_projection_that_fails_says_why(make_profiles: MakeProfiles) -> None:
    embedding = Screen(make_profiles(), method="no such").maps[0]
    embedding.start().join()
    state = embedding.state()
    assert not state["ready"]
    assert "method must be one of" in state["error"]
    assert len(state["x"]) == 48  # the first components are shown all the same


def test_numbers_of_the_metadata_stay_numbers(make_profiles: MakeProfiles) -> None:
    profiles = make_profiles()
    dose = [("", "0.5", "10", "2")[i % 4] for i in range(len(profiles))]
    metadata = profiles.metadata.assign(
        Metadata_Concentration=dose, Metadata_Batch=["1", "2"] * 24, Metadata_Note=["1", "x"] * 24
    )
    summary = Screen(Profiles(metadata, profiles.features, profiles.names)).summary()
    assert list(summary["numbers"]) == ["Metadata_Concentration"]
    assert summary["numbers"]["Metadata_Concentration"][:4] == [None, 0.5, 10.0, 2.0]


def test_several_embeddings_are_matched_by_plate_and_well(
    make_profiles: MakeProfiles, squared_profiles: Callable[[Profiles], Profiles]
) -> None:
    profiles = make_profiles()
    screen = Screen({"raw": profiles, "squared": squared_profiles(profiles)}, method="pca")
    second = screen.maps[1]
    assert second.present.tolist() == [False, False] + [True] * 46
    np.testing.assert_array_equal(second.profiles.features, profiles.features[2:] ** 2)
    assert second.neighbors(0) == []
    assert 0 not in [well for well, _ in second.neighbors(4)]
    second.project()
    assert second.state()["x"][:2] == [None, None]
    assert second.similarity_to_all(4)[4] == pytest.approx(1, abs=1e-4)
    assert second.similarity_to_all(0) == [None] * 48


def test_embeddings_of_another_screen_are_refused(make_profiles: MakeProfiles) -> None:
    profiles = make_profiles()
    other = Profiles(
        profiles.metadata.assign(Metadata_Plate="Q1"), profiles.features, profiles.names
    )
    with pytest.raises(InputError, match="embeddings b share 0 wells with the first"):
        Screen({"a": profiles, "b": other})


def test_only_whole_plates_are_left_out(make_profiles: MakeProfiles) -> None:
    screen = Screen(make_profiles(plates=5), method="pca", limit=60)
    counts = screen.metadata["Metadata_Plate"].value_counts()
    assert len(screen) == 48
    assert set(counts) == {24}
    assert screen.total == 120


@pytest.mark.parametrize("method", [pytest.param("umap", marks=pytest.mark.slow), "tsne", "pca"])
def test_flat_maps_keep_groups_together(make_profiles: MakeProfiles, method) -> None:
    if method == "umap":
        pytest.importorskip("umap", reason="umap-learn is not installed")
    profiles = make_profiles(plates=4)
    places, words = project_2d(profiles.features, method)
    again, _ = project_2d(profiles.features, method)
    np.testing.assert_array_equal(places, again)
    assert words
    genes = profiles.metadata["Metadata_Gene"].to_numpy()
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (genes[distance.argmin(axis=1)] == genes).mean() > 0.95


def test_the_server_speaks_to_this_machine_alone(server: ViewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, "/")[0] == 200
    assert get(server, "/", host=f"localhost:{server.server_port}")[0] == 200
    assert get(server, "/api/screen", host="evil.example")[0] == 403


def test_a_port_that_is_taken(server: ViewServer) -> None:
    with pytest.raises(InputError, match="another --port"):
        ViewServer(server.screen, server.server_port)


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/etc/passwd", 404, "there is no"),
        ("/../secret", 404, "there is no"),
        ("/api/well", 400, "well must be a number below 48"),
        ("/api/well?well=48", 400, "well must be"),
        ("/api/well?well=%C2%B2", 400, "well must be"),
        ("/api/well?well=" + "9" * 5000, 400, "well must be"),
        ("/api/image?well=0&size=9x", 400, "size must be"),
        ("/api/image?well=-1", 400, "well must be"),
        ("/api/image?well=0&site=7", 400, "2 sites"),
        ("/api/image?well=0&channel=Golgi", 400, "no channel 'Golgi'"),
        ("/api/image?well=0&level=ER:1", 400, "CHANNEL:LOW:HIGH"),
        ("/api/image?well=0&level=Golgi:1:2", 400, "no channel 'Golgi'"),
        ("/api/projection?embedding=2", 400, "embedding must be a number below 2"),
        ("/static/screen.py", 404, "there is no"),
        ("/static/../server.py", 404, "there is no"),
        ("/api/image?well=47", 400, "does not exist"),
    ],
)
def test_wrong_questions_get_an_answer(server: ViewServer, path, status, says) -> None:
    found, content = get(server, path)
    assert found == status
    assert says in json.loads(content)["error"]


def test_images(server: ViewServer) -> None:
    status, content = get(server, "/api/image?well=3&size=40")
    assert status == 200
    picture = np.asarray(Image.open(BytesIO(content)))
    assert picture.shape == (30, 40, 3)
    status, content = get(server, "/api/image?well=3&size=40&channel=ER&site=1")
    assert np.asarray(Image.open(BytesIO(content))).shape == (30, 40)


def test_channels_and_levels_of_images(server: ViewServer) -> None:
    def picture(query: str) -> np.ndarray:
        status, content = get(server, f"/api/image?well=3&size=40{query}")
        assert status == 200
        return np.asarray(Image.open(BytesIO(content))).astype(int)

    channels = json.loads(get(server, "/api/channels?well=3")[1])
    assert [c["name"] for c in channels] == ["DNA", "ER"]
    assert all(0 <= c["low"] < c["high"] <= c["max"] for c in channels)
    assert [c["color"] for c in channels] == ["#4073ff", "#1aff59"]
    assert picture("&channel=ER&level=ER:100000:200000").max() == 0
    assert picture("&channel=ER&level=ER:-2:-1").min() == 255
    # Both channels named are the same as none named.
    np.testing.assert_array_equal(picture("&channel=ER&channel=DNA"), picture(""))
    assert (picture("&level=ER:100000:200000") <= picture("")).all()


def test_without_an_index_there_are_no_images(make_profiles: MakeProfiles) -> None:
    screen = Screen(make_profiles(), method="pca")
    assert not any(screen.summary()["images"])
    with pytest.raises(InputError, match="--index"):
        screen.image(0)


@pytest.fixture
def small_server(make_profiles: MakeProfiles, index: Index) -> Iterator[ViewServer]:
    screen = Screen(make_profiles(), index, method="pca")
    with ViewServer(screen, max_connections=4, request_timeout=1.0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_half_open_connections_are_bounded_and_closed(small_server: ViewServer) -> None:
    before = threading.active_count()
    address = ("127.0.0.1", small_server.server_port)
    connections = [socket.create_connection(address, timeout=10) for _ in range(40)]
    try:
        for connection in connections[:4]:
            connection.sendall(b"GET / HTTP/1.0\r\nHost: ")  # and never the rest
        answers = [connection.recv(100) for connection in connections[4:]]
        assert all(answer.startswith(b"HTTP/1.0 503") for answer in answers)
        assert threading.active_count() <= before + 4
        # Bytes that trickle in do not extend the deadline.
        deadline = time.monotonic() + 5
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                connections[0].sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() < deadline
        deadline = time.monotonic() + 5
        while get(small_server, "/")[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for connection in connections:
            connection.close()
