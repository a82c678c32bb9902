from consisid_pack.consisid_core.batch.backends.urls import Urls
from helpers.batch import plain_graph, task


def test_a_server_of_somebody_else_works_and_one_that_is_not_there_is_gone(server, node_types):
    absent = "http://127.0.0.1:9"
    backend = Urls([server.url, absent], 600)
    assert backend.weights(plain_graph()) == "" and not backend.keeps_identities
    backend.start(node_types, "")
    events = []
    while len(events) < 2:
        events += backend.events(5)
    by_worker = {event.worker: event for event in events}
    assert f"{absent} does not answer" in by_worker[absent].gone and not by_worker[server.url].gone
    backend.give(server.url, task("k", plain_graph(), "1234"))
    while not (events := backend.events(5)):
        pass
    assert events[0].outcome.content[4:8] == b"ftyp"
    backend.close()
