"""Falling back: a strict vote first, a cheaper way where it fails, another model as the last resort.

Runs without a model: the providers are scripted.
"""

from executionkit import Failure, PermanentError, ScriptedProvider, Success, complete, consensus


def main() -> None:
    """Let two options fail and the third one answer; all three are paid for."""
    undecided = ScriptedProvider(["billing", "sales", "billing"])
    gone = ScriptedProvider([PermanentError("the model is gone")])
    backup = ScriptedProvider(["billing"])

    stage = consensus(n=3, strategy="unanimous") | complete().using(gone) | complete().using(backup)
    outcome = stage.run_sync(undecided, "Which team? My invoice is wrong.")
    match outcome:
        case Success(result):
            print(f"{result.value}, {result.cost.llm_calls} calls")
            for failure in result.metadata["option_failures"]:
                print(f"  after {failure}")
        case Failure(error):
            print(f"nobody answered: {error}")


if __name__ == "__main__":
    main()
