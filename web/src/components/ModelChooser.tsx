import type { Comparison } from '../comparison';
import { text } from '../text';

/** Chooses the models whose rows are compared. It is shown if there are several. */
export function ModelChooser({ comparison }: { comparison: Comparison }) {
  const { models } = comparison;
  if (models.length < 2) return null;
  return (
    <fieldset class="chooser">
      <legend>{text().models.choose}</legend>
      {models.map((model) => (
        <label key={model}>
          <input type="checkbox" name={model} checked={comparison.chosen.has(model)}
            onChange={({ currentTarget }) => void comparison.choose(model, currentTarget.checked)} />
          <code>{model}</code> <small>{kindOf(model, comparison)}</small>
        </label>
      ))}
    </fieldset>
  );
}

function kindOf(model: string, comparison: Comparison): string {
  if (comparison.takesPictures(model)) return text().models.pictures;
  return comparison.tensorArtifactOf(model) ? text().models.tensors : text().models.none;
}
