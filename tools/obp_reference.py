"""What obp, the Open Bandit Pipeline, says: run it by an interpreter that has obp 0.4.1.

python tools/obp_reference.py estimate FILE.npz                  obp's estimators on given inputs, as JSON
python tools/obp_reference.py pipeline CAMPAIGN BEHAVIOUR RUNS   obp's own pipeline, mean and sd of relative errors

The pipeline follows obp's examples/obd/evaluate_off_policy_estimators.py: logistic regression per position on user and
item features, three folds, a million draws of bts. The library's loader is mended for the pandas of today.
"""

import json
import sys
import warnings

import numpy as np
import pandas as pd
from obp.dataset import OpenBanditDataset
from obp.ope import (
    DirectMethod,
    DoublyRobust,
    DoublyRobustWithShrinkage,
    InverseProbabilityWeighting,
    RegressionModel,
    SelfNormalizedInverseProbabilityWeighting,
    SwitchDoublyRobust,
)
from obp.policy import BernoulliTS, Random
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import LabelEncoder

SEED = 12345
SIMS = 1_000_000


class Dataset(OpenBanditDataset):
    def pre_process(self) -> None:
        users = self.data.columns.str.contains("user_feature")
        self.context = pd.get_dummies(self.data.loc[:, users], drop_first=True).to_numpy().astype(float)
        categories = self.item_context.drop(columns="item_feature_0").apply(LabelEncoder().fit_transform)
        self.action_context = pd.concat([categories, self.item_context["item_feature_0"]], axis=1).to_numpy()


def estimators(switch, shrinkage):
    return [
        DirectMethod(),
        InverseProbabilityWeighting(),
        SelfNormalizedInverseProbabilityWeighting(),
        DoublyRobust(),
        SwitchDoublyRobust(tau=switch),
        DoublyRobustWithShrinkage(lambda_=shrinkage),
    ]


def values(feedback, probability, expected, switch, shrinkage):
    rows = len(feedback["action"])
    distribution = np.tile(probability, (rows, 1, 1))
    inputs = {name: feedback[name] for name in ("reward", "action", "pscore", "position")}
    return {
        e.estimator_name: e.estimate_policy_value(
            **inputs, action_dist=distribution, estimated_rewards_by_reg_model=expected
        )
        for e in estimators(switch, shrinkage)
    }


def estimate(path):
    given = np.load(path)
    feedback = {name: given[name] for name in ("action", "position", "reward", "pscore")}
    feedback["action"], feedback["position"] = feedback["action"].astype(int), feedback["position"].astype(int)
    expected = np.repeat(given["expected"][:, :, None], given["probability"].shape[0], axis=2)
    found = values(feedback, given["probability"].T, expected, float(given["switch"]), float(given["shrinkage"]))
    print(json.dumps({name: float(value) for name, value in found.items()}))


def pipeline(campaign, behaviour, runs):
    log = Dataset(behavior_policy=behaviour, campaign=campaign)
    other = "bts" if behaviour == "random" else "random"
    own = {"is_zozotown_prior": True, "campaign": campaign} if other == "bts" else {}
    policy = (BernoulliTS if other == "bts" else Random)(
        n_actions=log.n_actions, len_list=log.len_list, random_state=SEED, **own
    )
    probability = np.full((log.n_actions, log.len_list), 1 / log.n_actions)
    if other == "bts":
        probability = policy.compute_batch_action_dist(n_sim=SIMS)[0]
    truth = Dataset(behavior_policy=other, campaign=campaign).reward.mean()
    found, failed = [], 0
    for run in range(runs):
        feedback = log.sample_bootstrap_bandit_feedback(random_state=run)
        model = RegressionModel(
            n_actions=log.n_actions,
            len_list=log.len_list,
            action_context=log.action_context,
            base_model=LogisticRegression(C=100, max_iter=10_000, random_state=SEED),
        )
        inputs = {name: feedback[name] for name in ("context", "action", "reward", "position", "pscore")}
        try:
            expected = model.fit_predict(**inputs, n_folds=3, random_state=SEED)
        except ValueError:  # a fold without a click at some position: obp has no answer
            failed += 1
            continue
        estimated = values(feedback, probability, expected, 1.0, 100.0)
        found.append({name: abs(value - truth) / truth for name, value in estimated.items()})
    table = pd.DataFrame(found)
    print(f"{behaviour} log -> {other}, campaign {campaign}, truth {truth:.5f}; {failed} of {runs} logs without a fit")
    print(pd.DataFrame({"mean": table.mean(), "sd": table.std()}).round(3).to_string())


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    if sys.argv[1] == "estimate":
        estimate(sys.argv[2])
    else:
        pipeline(sys.argv[2], sys.argv[3], int(sys.argv[4]))
