import torch
from consisid_pack.consisid_core.training.small.identity import IdentityTask, Reader, identity_of


def test_the_reader_reads_places_of_a_picture(sizes):
    torch.manual_seed(0)
    reader = Reader(sizes)
    latents, embedding, facts = reader(torch.randn(2, 32, 32))
    assert (latents.shape, embedding.shape, facts.shape) == ((2, 16, 4, 4), (2, 512), (2, 64))


def test_tokens_learn_the_people_they_see(sizes, pool, code):
    task = IdentityTask(sizes, pool, code, "cpu", batch=6)
    people = torch.tensor(pool.people)

    @torch.no_grad()
    def error():
        _, latents, _, facts = task.net(pool.embedding[people, 0], pool.grey[people, 0])
        return (facts - pool.facts[people]).square().mean()

    before = error()
    for _ in range(12):
        task.step(0.0)
    assert error() < 0.97 * before
    assert task.updates == 12
    assert "tokens" in task.report()


def test_the_result_is_the_averaged_identity(sizes, pool, code):
    task = IdentityTask(sizes, pool, code, "cpu", batch=4)
    task.step(0.0)
    embedding, grey = pool.embedding[:2, 0], pool.grey[:2, 0]
    torch.testing.assert_close(identity_of(task.state(), sizes)(embedding, grey), task.tokens(embedding, grey))
