import { useState } from 'preact/hooks';

import type { Comparison } from '../comparison';
import { text } from '../text';

/** With more models than this, they can be filtered by name, and chosen together. */
const FEW = 8;

/** Chooses the models whose rows are compared; names the model where there is only one, in the same place. */
export function ModelChooser({ comparison }: { comparison: Comparison }) {
  const [filter, setFilter] = useState('');
  const words = text().models;
  const { models } = comparison;
  if (!models.length) return <div class="chooser" />;
  const kinds = new Set(models.map((model) => kindOf(model, comparison)));
  const shown = models.filter((model) => model.toLowerCase().includes(filter.trim().toLowerCase()));
  const choose = (wanted: boolean) => shown.forEach((model) => {
    if (comparison.chosen.has(model) !== wanted) void comparison.choose(model, wanted);
  });
  return (
    <fieldset class="chooser">
      <legend>{words.choose}</legend>
      {models.length > FEW && (
        <div class="actions">
          <input type="search" aria-label={words.filter} placeholder={words.filter} value={filter}
            onInput={({ currentTarget }) => setFilter(currentTarget.value)} />
          <button type="button" onClick={() => choose(true)}>{words.all}</button>
          <button type="button" onClick={() => choose(false)}>{words.nothing}</button>
        </div>
      )}
      <div class="models">
        {shown.map((model) => (
          <label key={model}>
            {models.length > 1 && (
              <input type="checkbox" name={model} checked={comparison.chosen.has(model)}
                onChange={({ currentTarget }) => void comparison.choose(model, currentTarget.checked)} />
            )}
            <code>{model}</code> {kinds.size > 1 && <small>{kindOf(model, comparison)}</small>}
          </label>
        ))}
      </div>
    </fieldset>
  );
}

function kindOf(model: string, comparison: Comparison): string {
  if (comparison.takesPictures(model)) return text().models.pictures;
  return comparison.tensorArtifactOf(model) ? text().models.tensors : text().models.none;
}
